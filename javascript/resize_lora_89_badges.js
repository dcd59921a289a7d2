/* The saving on the host's cards of LoRAs that have a smaller version. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.badges) return;

    const {saving, size} = resizeLora.numbers;
    const {byId, el, later, setText} = resizeLora.elements;
    const {state} = resizeLora.model;
    const {PROMPT_TABS} = resizeLora.prompt;

    const BADGE = 'resize-lora-card-badge';

    function drawBadges() {
        if (!state.files.size) return;
        for (const tab of PROMPT_TABS) {
            const pane = byId(`${tab}_lora_cards`);
            if (pane) pane.querySelectorAll('.card').forEach(drawBadge);
        }
    }

    /* The badge of an original: what its smallest version saves; of a version: what it saves itself. */
    function drawBadge(card) {
        const file = state.files.get(resizeLora.cards.cardName(card));
        const [before, after] = file ? pairOf(file) : [];
        let badge = card.querySelector(`.${BADGE}`);
        if (!after) {
            if (badge) badge.remove();
            return;
        }
        if (!badge) card.append((badge = el('span', {class: `resize-lora ${BADGE}`})));
        setText(badge, saving(before.bytes, after.bytes));
        const title = `${before.name} ${size(before.bytes)} → ${after.name} ${size(after.bytes)}`;
        if (badge.title !== title) badge.title = title;
    }

    function pairOf(file) {
        const versions = state.families.get(file.name);
        if (versions) return [file, versions[0]];
        const source = file.ours && state.files.get(file.ours.source);
        return source ? [source, file] : [];
    }

    /* A host draws its cards again at any time. */
    const drawSoon = later(drawBadges, 300);
    if (typeof MutationObserver === 'function') {
        new MutationObserver(drawSoon).observe(document.documentElement, {childList: true, subtree: true});
    }

    resizeLora.badges = {drawBadges};
})((window.resizeLora = window.resizeLora || {}));
