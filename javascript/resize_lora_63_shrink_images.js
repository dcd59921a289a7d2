/* The part of the dialog *Shrink library* that is about images: the target, the prompts, and the fit. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.shrinkImages) return;

    const {t} = resizeLora.words;
    const {aboutImages, fitImages, imageSeconds, templateOf} = resizeLora.findWords;
    const {el, setText, show} = resizeLora.elements;
    const {state} = resizeLora.model;
    const {can} = resizeLora.choice;
    const {FIT_IMAGES} = resizeLora.fit;
    const {imageForm} = resizeLora;

    const parts = {box: null, goal: null};

    /* The new sizes are found by images. */
    function isByImages() {
        return state.shrink.preset === 'images';
    }

    function isFitted() {
        return can('fit') && Boolean(state.shrink.images) && state.shrink.images.isFitted;
    }

    /* The answers for a dialog that opens; `draw` is called after each change. */
    function newImages(draw) {
        const tab = resizeLora.prompt.mainTab();
        const settings = resizeLora.compare.imageSettings(tab);
        const prompt = templateOf(settings.prompt || '');
        const form = imageForm.newForm('shrink', {tab, settings, prompt});
        return Object.assign(form, {isFitted: false, draw});
    }

    /* The switch, which goes with every choice, and below it what is asked about images. */
    function frameImages() {
        const form = state.shrink.images;
        parts.goal = imageForm.goalField(form);
        parts.box = el(
            'fieldset',
            {class: 'resize-lora-find', id: 'resize_lora_shrink_by_images', hidden: true},
            el('legend', null, t('Images')),
            parts.goal,
            imageForm.promptFields(form, t('Prompt template')),
            imageForm.seedsField(form),
            imageForm.costLine(form),
            imageForm.warnings(),
        );
        setText(form.parts.tagNote, imageForm.templateText());
        return [can('fit') ? imageForm.fitField(form, t("Fit to each LoRA's images")) : [], parts.box];
    }

    /* The part of the run that is about images. */
    function imagesQuestion() {
        const {images} = state.shrink;
        if (!isByImages() && !isFitted()) return {};
        return {
            settings: imageForm.settingsOf(images),
            ...(isByImages() ? {seeds: images.seeds} : {}),
            ...(isFitted() ? {fit: true} : {}),
        };
    }

    function drawImages(plan, sums) {
        const form = state.shrink.images;
        const loras = sums ? sums.files : 0;
        imageForm.drawGoal(form);
        show(parts.box, isByImages() || isFitted());
        show(parts.goal, isByImages());
        show(form.parts.seeds, isByImages());
        setText(form.parts.cost, loras ? imageForm.costText(imagesEach(), loras, secondsOf(plan, loras)) : '');
    }

    /* About how many images are made for each LoRA. */
    function imagesEach() {
        const fitted = isFitted() ? FIT_IMAGES : 0;
        return isByImages() ? aboutImages(state.shrink.images.seeds, fitted) : fitImages(fitted);
    }

    /* The time of all images; 0 where none are made, and null where it is not known. */
    function secondsOf(plan, loras) {
        if (!isByImages() && !isFitted()) return 0;
        return plan && imageSeconds(imagesEach() * loras, state.shrink.images.settings, plan.image_pace);
    }

    /* Why there is no choice *By images* here; '' where there is. */
    function imagesFault() {
        return can('generate') ? '' : t('Image generation is not available here.');
    }

    /* The note of the choice in the table. */
    function imagesNote() {
        return imagesFault() || t('the smallest file of each LoRA that draws the same');
    }

    resizeLora.shrinkImages = {
        drawImages,
        frameImages,
        imagesFault,
        imagesNote,
        imagesQuestion,
        isByImages,
        isFitted,
        newImages,
        secondsOf,
    };
})((window.resizeLora = window.resizeLora || {}));
