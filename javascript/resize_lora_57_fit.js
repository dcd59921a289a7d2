/* What uses images of the person's prompt: the way to *Find the smallest*, and the switch *Fit to my images*. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.fit) return;

    const {count} = resizeLora.numbers;
    const {t} = resizeLora.words;
    const {button, checkbox, el, quiet, setText} = resizeLora.elements;
    const {state} = resizeLora.model;
    const {can, changedOptions, chosenNames} = resizeLora.choice;

    /* The images of a fit, and the steps of each that are recorded. */
    const FIT_IMAGES = 4;
    const FIT_STEPS = 4;

    const parts = {box: null, find: null};

    function frameImages() {
        const find = () => resizeLora.find.openFind(chosenNames(), {options: changedOptions()});
        parts.find = button('', find, {
            id: 'resize_lora_find',
            'data-action': 'find',
            'aria-describedby': 'resize_lora_find_about',
        });
        const about = t('Compares images of your prompt at several sizes. Nothing is saved unless you ask.');
        parts.box = el(
            'div',
            {class: 'resize-lora-images', hidden: !can('generate')},
            el('div', {class: 'resize-lora-images-line'}, parts.find, quiet(about, {id: 'resize_lora_find_about'})),
            can('fit') ? fitSwitch() : [],
        );
        return parts.box;
    }

    function fitSwitch() {
        const text = t('Fit to my images (2 minutes on a GPU)');
        const box = checkbox('resize_lora_fit', text, state.fit, checked => {
            state.fit = checked;
        });
        box.querySelector('input').setAttribute('aria-describedby', 'resize_lora_fit_about');
        return el('div', {class: 'resize-lora-find-fit'}, box, quiet(fitHint(), {id: 'resize_lora_fit_about'}));
    }

    /* What a fit does and needs. */
    function fitHint() {
        const does = t('Brings the new file closer to the original, with {n} images of your prompt.', {n: FIT_IMAGES});
        return `${does} ${t('Needs a loaded checkpoint of the same model family.')}`;
    }

    function drawImages() {
        if (!parts.box) return;
        const names = chosenNames();
        const several = t('Find the smallest of {n} LoRAs…', {n: count(names.length)});
        setText(parts.find, names.length > 1 ? several : t('Find the smallest…'));
        parts.find.disabled = !names.length;
    }

    /* The part of a resize that is about the fit. */
    function fitParams() {
        if (!state.fit || !can('fit')) return {};
        const settings = resizeLora.compare.imageSettings(resizeLora.prompt.mainTab());
        return {fit: {settings, images: FIT_IMAGES, steps: FIT_STEPS}};
    }

    resizeLora.fit = {FIT_IMAGES, drawImages, fitHint, fitParams, frameImages};
})((window.resizeLora = window.resizeLora || {}));
