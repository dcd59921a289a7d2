/* Extraction of a LoRA from two checkpoints. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.extract) return;

    const {t} = resizeLora.words;
    const {errorText} = resizeLora.messages;
    const {button, chooser, el, input, labelled, primaryButton, quietLine, setText} = resizeLora.elements;
    const {state} = resizeLora.model;
    const {can, changedOptions} = resizeLora.choice;
    const {call} = resizeLora.wire;
    const {dialog, presetTargets, targetParams, toast} = resizeLora.dialogs;
    const {follow} = resizeLora.jobs;

    function extractButtons() {
        if (!state.hello.checkpoints.length) return [];
        const title = t('Extract the difference between two checkpoints as a LoRA');
        return [
            button(t('Extract a LoRA…'), openExtract, {
                id: 'resize_lora_extract',
                'data-action': 'extract',
                title,
            }),
        ];
    }

    function openExtract() {
        const form = newForm();
        const titles = state.hello.checkpoints.map(title => [title, title]);
        const isLive = can('loaded_model');
        const loaded = isLive ? [['loaded', t('Loaded checkpoint')]] : [];
        const own = isLive ? [['file', t('Its own file')]] : [];
        const target = formField(form, 'target', t('Target'), extractTargets());
        form.box = dialog(t('Extract a LoRA'), [
            quietLine(extractText(isLive)),
            formField(form, 'tuned', t('Model'), [...loaded, ...titles]),
            formField(form, 'base', t('Base model'), [...own, ...titles]),
            el('label', {class: 'resize-lora-check'}, form.encoders, t('Include text encoders')),
            form.note,
            el('div', {class: 'resize-lora-bake-row'}, target, labelled(t('Name'), form.name), form.run),
        ]);
        checkForm(form);
    }

    /* Models that can be compared: what is loaded with its own file, or two files of the list. */
    function firstChoice(titles) {
        const {kind, title} = state.reference || {kind: 'none'};
        const isLoaded = can('loaded_model') && kind !== 'none';
        const [first, second] = titles;
        if (isLoaded) return ['loaded', 'file'];
        return titles.includes(title) && title !== first ? [title, first] : [first, second || first];
    }

    function newForm() {
        const [tuned, base] = firstChoice(state.hello.checkpoints);
        const form = {
            tuned,
            base,
            target: '64',
            box: null,
            name: input('text', 'resize_lora_extract_name', {placeholder: t('from both checkpoint names')}),
            encoders: input('checkbox', 'resize_lora_extract_encoders', {checked: true}),
            note: el('p', {class: 'resize-lora-quiet', id: 'resize_lora_extract_note', 'aria-live': 'polite'}),
            run: primaryButton(t('Extract'), () => startExtract(form), {
                id: 'resize_lora_extract_run',
                'data-action': 'extract-run',
            }),
        };
        return form;
    }

    function formField(form, name, text, choices) {
        const set = value => {
            form[name] = value;
            checkForm(form);
        };
        return labelled(text, chooser(`resize_lora_extract_${name}`, text, choices, form[name], set));
    }

    function extractTargets() {
        const ranks = [64, 128].map(n => [String(n), t('Rank {n}', {n})]);
        return [...ranks, ...presetTargets()];
    }

    function extractText(isLive) {
        const about = t('A LoRA that turns the second model into the first.');
        const live = t(
            'Compare the loaded model with its own file to extract what was merged in memory, without prompt LoRAs.',
        );
        return isLive ? `${about} ${live}` : about;
    }

    /* Only what is in memory can differ from its own file. */
    function checkForm(form) {
        const isAlone = form.tuned !== 'loaded' && form.base === 'file';
        const isSame = form.tuned === form.base;
        const alone = t('Only the loaded checkpoint can be compared with its own file. Select another base model.');
        const two = t('There is only one checkpoint, and none is loaded. Add another checkpoint, or load one.');
        const same = isSame ? t('These are the same model.') : '';
        const isOnly = isSame && state.hello.checkpoints.length < 2;
        setText(form.note, isAlone ? alone : (isOnly && two) || same);
        form.run.disabled = isAlone || isSame;
    }

    async function startExtract(form) {
        const goal = targetParams(form.target);
        const name = form.name.value.trim();
        if (!goal) return;
        form.run.disabled = true;
        try {
            const {job} = await call('extract', {
                tuned: form.tuned,
                base: form.base,
                text_encoders: form.encoders.checked,
                ...(name ? {name} : {}),
                ...goal,
                options: changedOptions(),
            });
            follow(job, toast(`${t('Extract a LoRA')}: ${t('queued')}`, {stays: true}));
            form.box.close();
        } catch (error) {
            form.run.disabled = false;
            setText(form.note, errorText(error));
        }
    }

    resizeLora.extract = {extractButtons};
})((window.resizeLora = window.resizeLora || {}));
