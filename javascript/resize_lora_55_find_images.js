/* The images of a size that a search has tried: original, resized, and without the LoRA. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.findImages) return;

    const {t} = resizeLora.words;
    const {errorText} = resizeLora.messages;
    const {chooser, el, quiet, show} = resizeLora.elements;
    const {call} = resizeLora.wire;

    const MOST_IMAGES = 24; // that are kept in the page

    const images = new Map(); // id of an image -> its address

    /* The images come later than the figures, and one by one. */
    async function drawImages(mine, trial) {
        const key = mine.key;
        if (!trial || !trial.pictures.length) {
            mine.parts.images.replaceChildren();
            return;
        }
        try {
            const found = {};
            for (const {id, what} of trial.pictures) found[what] = await address(id);
            if (mine.key === key && mine.box.open) showImages(mine, found);
        } catch (error) {
            if (mine.key === key) mine.parts.images.replaceChildren(quiet(errorText(error)));
        }
    }

    async function address(id) {
        if (!images.has(id)) {
            images.set(id, `data:image/png;base64,${(await call('picture', {id})).png}`);
            if (images.size > MOST_IMAGES) images.delete(images.keys().next().value);
        }
        return images.get(id);
    }

    /* Original and resized under the slider, the image without the LoRA on a page of its own. */
    function showImages(mine, found) {
        const {parts} = mine;
        const before = parts.wipe && parts.wipe.slider;
        const hadFocus = before && before === document.activeElement;
        parts.wipe = resizeLora.compare.wipeView(found);
        const {slider, stage} = parts.wipe;
        if (before) {
            slider.value = before.value;
            slider.dispatchEvent(new Event('input'));
        }
        const without = found.without && withoutPage(found.without);
        const draw = view => {
            mine.view = view;
            [stage, slider].forEach(one => show(one, view === 'slider'));
            if (without) show(without, view === 'without');
        };
        const views = [['slider', t('Original and resized')], ...(without ? [['without', t('Without the LoRA')]] : [])];
        const view = without ? mine.view : 'slider';
        const choice = views.length > 1 ? chooser('resize_lora_find_view', t('View'), views, view, draw) : [];
        parts.images.replaceChildren(...[stage, without, slider, choice].flat().filter(Boolean));
        draw(view);
        if (hadFocus) slider.focus();
    }

    function withoutPage(source) {
        return el('div', {class: 'resize-lora-stage'}, el('img', {src: source, alt: t('Without the LoRA')}));
    }

    resizeLora.findImages = {drawImages};
})((window.resizeLora = window.resizeLora || {}));
