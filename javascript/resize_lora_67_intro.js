/* What to do, shown until the first resize. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.intro) return;

    const {t} = resizeLora.words;
    const {draw, el, show} = resizeLora.elements;
    const {kept} = resizeLora.storage;
    const {state} = resizeLora.model;

    const parts = {box: null};

    const BEFORE = [46, 38, 32, 26, 21, 17, 13, 10, 7, 5]; // heights of the bars in the picture, pixels
    const KEPT = 4;

    function frameIntro() {
        state.wasHere = kept('resized') === true;
        const lines = [
            t('Select LoRAs in the library. The sizes that they would have are next to them.'),
            t('Choose a preset: High keeps the most, Low makes the smallest file.'),
            t('Press Resize. Originals stay unchanged, and each new file can be undone.'),
        ];
        const list = el(
            'ol',
            null,
            lines.map(line => el('li', null, line)),
        );
        parts.box = el('div', {id: 'resize_lora_intro', class: 'resize-lora-intro'}, picture(), list);
        return parts.box;
    }

    /* The strong dimensions of a LoRA are kept, the weak ones removed. */
    function picture() {
        const label = t('A LoRA before and after: the strong dimensions are kept');
        const bar = (height, i, left, name) =>
            draw('rect', {x: left + i * 14, y: 56 - height, width: 10, height, rx: 1, class: name});
        const before = BEFORE.map((height, i) =>
            bar(height, i, 4, i < KEPT ? 'resize-lora-bar' : 'resize-lora-bar-old'),
        );
        const after = BEFORE.slice(0, KEPT).map((height, i) => bar(height, i, 214, 'resize-lora-bar'));
        return draw(
            'svg',
            {viewBox: '0 0 274 62', width: 274, height: 62, role: 'img', 'aria-label': label},
            before,
            draw('path', {d: 'M160 36h36m-9 -8l9 8l-9 8', class: 'resize-lora-arrow'}),
            after,
        );
    }

    /* Whether the introduction is shown in place of the plots. */
    function isIntroduced() {
        return state.files.size > 0 && !state.current && !state.wasHere && !state.results.length;
    }

    function drawIntro() {
        if (parts.box) show(parts.box, isIntroduced());
    }

    resizeLora.intro = {drawIntro, frameIntro, isIntroduced};
})((window.resizeLora = window.resizeLora || {}));
