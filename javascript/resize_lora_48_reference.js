/* The reference: the checkpoint that recipes compare a LoRA with. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.reference) return;

    const {t} = resizeLora.words;
    const {messageText} = resizeLora.messages;
    const {chooser, el, quiet, setText} = resizeLora.elements;
    const {state} = resizeLora.model;
    const {askPlanSoon} = resizeLora.analysis;

    const parts = {dot: null, title: null, note: null};

    function frameReference() {
        const label = t('Reference');
        const hint = t('The checkpoint that recipes compare a LoRA with');
        const titles = state.hello.checkpoints.map(title => [title, title]);
        const choices = [['loaded', t('Loaded checkpoint')], ...titles, ['none', t('No reference')]];
        parts.dot = el('span', {class: 'resize-lora-dot', 'aria-hidden': 'true'});
        parts.title = el('strong', {class: 'resize-lora-cut'});
        parts.note = quiet();
        const own = {class: 'resize-lora-reference-text', id: 'resize_lora_reference'};
        return el(
            'section',
            {class: 'resize-lora-reference', 'aria-label': label},
            quiet(label, {title: hint}),
            el('span', own, parts.dot, parts.title, parts.note),
            chooser('resize_lora_checkpoint', label, choices, state.options.reference, setReference),
        );
    }

    function setReference(value) {
        state.options.reference = value;
        state.analysedFor = '';
        drawReference();
        askPlanSoon();
    }

    function drawReference() {
        if (!parts.dot || !state.reference) return;
        const {kind, title, note} = referenceTexts(state.options.reference, state.reference);
        parts.dot.dataset.kind = kind;
        setText(parts.title, title);
        setText(parts.note, note);
    }

    function referenceTexts(chosen, loaded) {
        if (chosen === 'none') {
            return {kind: 'none', title: t('No reference'), note: t("uses the LoRA's own norms")};
        }
        if (chosen !== 'loaded') return {kind: 'file', title: chosen, note: kindText('file')};
        const {kind, family, note} = loaded;
        const known = [kind === 'none' ? '' : family, messageText(note) || kindText(kind)];
        return {kind, title: loaded.title || '', note: known.filter(Boolean).join(', ')};
    }

    function kindText(kind) {
        const words = {
            memory: t('in memory'),
            cache: t('cached norms'),
            file: t('read from file'),
            none: t('No checkpoint is loaded.'),
        };
        return words[kind];
    }

    resizeLora.reference = {drawReference, frameReference};
})((window.resizeLora = window.resizeLora || {}));
