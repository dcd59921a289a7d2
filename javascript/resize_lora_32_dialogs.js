/* Dialogs and toasts. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.dialogs) return;

    const {t} = resizeLora.words;
    const {errorText} = resizeLora.messages;
    const {button, el, head, later, setText} = resizeLora.elements;
    const {PRESETS, PRESET_WORDS} = resizeLora.model;
    const {chosenTarget, isTargetValid} = resizeLora.choice;

    /* Opens a modal dialog; it is removed when it closes. */
    function dialog(title, content) {
        const close = button(t('Close'), () => box.close());
        const own = {class: 'resize-lora resize-lora-dialog', 'aria-label': title};
        const box = el('dialog', own, head(title, close), content);
        box.addEventListener('close', () => box.remove());
        box.addEventListener('keydown', event => event.stopPropagation());
        document.body.append(box);
        box.showModal();
        return box;
    }

    function toastPlace() {
        const known = document.getElementById('resize_lora_toasts');
        if (known) return known;
        const own = {id: 'resize_lora_toasts', class: 'resize-lora', role: 'region', 'aria-label': t('Resize LoRA')};
        const place = el('div', own);
        document.body.append(place);
        return place;
    }

    /* A short note at the edge of the page: {setText, offer, close, leave}. It leaves by itself unless it `stays`. */
    function toast(text, {bad, stays} = {}) {
        const words = el('span', {role: bad ? 'alert' : 'status'}, text);
        const buttons = el('span', {class: 'resize-lora-result-tools'});
        const close = {
            type: 'button',
            class: 'resize-lora-close',
            'aria-label': t('Close'),
            on: {click: () => box.remove()},
        };
        const look = `resize-lora-toast${bad ? ' resize-lora-failed' : ''}`;
        const box = el('div', {class: look}, words, buttons, el('button', close, '×'));
        const handle = {
            setText: next => setText(words, next),
            offer: (...next) => buttons.replaceChildren(...next),
            close: () => box.remove(),
            leave: later(() => (box.matches(':hover, :focus-within') ? handle.leave() : box.remove()), 9000),
        };
        if (!stays) handle.leave();
        toastPlace().append(box);
        return handle;
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

    resizeLora.dialogs = {copyText, dialog, presetTargets, showError, targetParams, toast};
})((window.resizeLora = window.resizeLora || {}));
