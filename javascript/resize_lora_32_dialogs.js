/* Dialogs and toasts. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.dialogs) return;

    const {t} = resizeLora.words;
    const {errorText} = resizeLora.messages;
    const {button, el, head, later, setText, show} = resizeLora.elements;
    const {PRESETS, PRESET_WORDS, state} = resizeLora.model;
    const {chosenTarget, isTargetValid} = resizeLora.choice;

    /* Opens a modal dialog; it is removed when it closes. */
    function dialog(title, content) {
        const close = button(t('Close'), () => box.close(), {'data-action': 'close'});
        const own = {class: 'resize-lora resize-lora-dialog', 'aria-label': title};
        const box = el('dialog', own, head(title, close), content);
        box.addEventListener('close', () => {
            if (box.contains(toasts.place)) document.body.append(toasts.place);
            box.remove();
            placeToasts();
        });
        box.addEventListener('keydown', event => event.stopPropagation());
        document.body.append(box);
        box.showModal();
        placeToasts();
        return box;
    }

    const toasts = {place: null};

    /* Where toasts are, so that they cover no button: in an open dialog of ours, in the tab where it is in view, else
       at the edge of the host's page. */
    function toastPlace() {
        if (!toasts.place) {
            const own = {
                id: 'resize_lora_toasts',
                class: 'resize-lora',
                role: 'region',
                'aria-label': t('Resize LoRA'),
            };
            toasts.place = el('div', own);
        }
        placeToasts();
        return toasts.place;
    }

    function placeToasts() {
        const {place} = toasts;
        if (!place) return;
        const open = [...document.querySelectorAll('dialog.resize-lora-dialog[open]')].pop();
        const inTab = state.root && state.root.offsetParent && state.root.querySelector('.resize-lora-actions');
        const home = open || inTab || document.body;
        if (place.parentElement !== home) home.append(place);
        place.classList.toggle('resize-lora-floating', home === document.body);
        if (home === document.body && place.children.length) place.dataset.corner = freeCorner(place);
    }

    const CORNERS = ['bottom-right', 'bottom-left', 'top-right', 'top-left'];
    const USED = 'button, input, select, textarea, a, label, .card';
    const STEP = 24; // pixels between the points that are looked at

    /* The first corner of the window where toasts cover nothing that can be pressed; else the first. */
    function freeCorner(place) {
        const isFree = corner => {
            place.dataset.corner = corner;
            return !coversButtons(place);
        };
        return CORNERS.find(isFree) || CORNERS[0];
    }

    function coversButtons(place) {
        const {left, top, right, bottom} = place.getBoundingClientRect();
        for (let x = left; x <= right; x += STEP) {
            for (let y = top; y <= bottom; y += STEP) {
                const below = document.elementsFromPoint(x, y).filter(one => !place.contains(one));
                if (below.length && below[0].closest(USED)) return true;
            }
        }
        return false;
    }

    /* A short note: {setText, offer, close, leave, countDown}. It leaves by itself unless it `stays`. */
    function toast(text, {bad, stays} = {}) {
        const words = el('span', {role: bad ? 'alert' : 'status'}, text);
        const buttons = el('span', {class: 'resize-lora-result-tools'});
        const clock = el('span', {class: 'resize-lora-quiet resize-lora-clock', hidden: true});
        const close = {
            type: 'button',
            class: 'resize-lora-close',
            'aria-label': t('Close'),
            'data-action': 'close',
            on: {click: () => box.remove()},
        };
        const look = `resize-lora-toast${bad ? ' resize-lora-failed' : ''}`;
        const box = el('div', {class: look}, words, clock, buttons, el('button', close, '×'));
        const isUsed = () => box.matches(':hover, :focus-within');
        const handle = {
            setText: next => setText(words, next),
            offer: (...next) => buttons.replaceChildren(...next),
            close: () => box.remove(),
            leave: later(() => (isUsed() ? handle.leave() : box.remove()), 9000),
            countDown: seconds => countDown(box, clock, seconds, isUsed),
        };
        if (!stays) handle.leave();
        toastPlace().append(box);
        placeToasts();
        return handle;
    }

    /* Shows the seconds until a toast leaves. They stop while the mouse or the focus is on it. */
    function countDown(box, clock, seconds, isUsed) {
        if (!box.isConnected) return;
        if (seconds <= 0) {
            box.remove();
            return;
        }
        show(clock, true);
        setText(clock, t('{n} s', {n: seconds}));
        setTimeout(countDown, 1000, box, clock, isUsed() ? seconds : seconds - 1, isUsed);
    }

    function showError(error) {
        if (error.kind !== 'stale') toast(errorText(error), {bad: true});
    }

    async function copyText(text) {
        try {
            await navigator.clipboard.writeText(text);
            toast(t('Copied: {text}', {text}));
        } catch {
            toast(text, {stays: true});
        }
    }

    /* The targets that a dialog offers besides its own: presets, and the one of the tab. */
    function presetTargets() {
        return [...PRESETS.map(name => [name, t(PRESET_WORDS[name])]), ['panel', t('As set in the tab')]];
    }

    /* The target of a call for the choice in a dialog; null where the tab has an invalid recipe. */
    function targetParams(choice) {
        if (choice === 'panel') {
            if (isTargetValid()) return chosenTarget();
            toast(t('The recipe in the tab is invalid. Correct it, or select another target.'), {bad: true});
            return null;
        }
        if (Number(choice)) return {target: {rank: Number(choice)}};
        return choice ? {target: {preset: choice}} : {};
    }

    resizeLora.dialogs = {copyText, dialog, placeToasts, presetTargets, showError, targetParams, toast};
})((window.resizeLora = window.resizeLora || {}));
