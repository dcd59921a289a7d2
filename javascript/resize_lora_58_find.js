/* The dialog *Find the smallest*, before the search: what is kept, the prompt, and how many images it takes. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.find) return;

    const {count} = resizeLora.numbers;
    const {listed, t} = resizeLora.words;
    const {aboutImages, hasTag, templateOf} = resizeLora.findWords;
    const {errorText} = resizeLora.messages;
    const {el, primaryButton, setText} = resizeLora.elements;
    const {state} = resizeLora.model;
    const {can} = resizeLora.choice;
    const {dialog, showError, toast} = resizeLora.dialogs;
    const {callForFile, start} = resizeLora.session;
    const {poll} = resizeLora.jobs;
    const {addOwnJobs} = resizeLora.ownJobs;
    const {imageForm} = resizeLora;
    const {FIT_IMAGES} = resizeLora.fit;

    /* Opens the dialog about LoRAs. `tab`: the tab of the host whose prompt is used; `options`: of the new file. */
    async function openFind(names, {tab = resizeLora.prompt.mainTab(), options = {}} = {}) {
        try {
            await start();
        } catch (error) {
            showError(error);
            return;
        }
        const settings = resizeLora.compare.imageSettings(tab);
        openForm(newForm({names, tab, options, settings}));
    }

    function openForm(form) {
        const title = t('Find the smallest file');
        form.body = el('div', {class: 'resize-lora-find'});
        form.box = dialog(title, form.body);
        showForm(form);
        form.box.querySelector('[data-action="find-run"]').focus();
    }

    function newForm({names, tab, options, settings}) {
        const isOne = names.length === 1;
        const prompt = isOne ? settings.prompt || '' : templateOf(settings.prompt || '');
        const form = imageForm.newForm('find', {tab, settings, prompt});
        return Object.assign(form, {names, options, box: null, body: null, draw: () => drawForm(form)});
    }

    /* Fills the dialog with the questions; a search that ended comes back here. */
    function showForm(form) {
        const {names} = form;
        const what = names.length > 1 ? t('{n} LoRAs: {names}', {n: count(names.length), names: listed(names, 3)}) : '';
        const content = [
            el('p', null, el('strong', null, what || names[0])),
            el('p', null, introText(names)),
            imageForm.goalField(form),
            imageForm.promptFields(form, promptLabel(form)),
            imageForm.seedsField(form),
            imageForm.costLine(form),
            warnings(form),
            can('fit') ? imageForm.fitField(form, t('Fit to my images (2 minutes on a GPU)')) : [],
            names.length === 1 ? resizeLora.findView.lastLine(form) : [],
            foot(form),
        ];
        form.body.replaceChildren(...content.flat());
        drawForm(form);
        askTag(form);
    }

    function introText(names) {
        const does = t('Makes images with the original and with smaller files, and finds the smallest file that fits.');
        const saves = t('Nothing is saved until you press Save.');
        const savesAll = t('The file that is found for each LoRA is saved next to it.');
        return `${does} ${names.length > 1 ? savesAll : saves}`;
    }

    function promptLabel({names}) {
        return names.length > 1 ? t('Prompt template') : t('Prompt');
    }

    /* What speaks against a search here, before it begins. */
    function warnings({names}) {
        const others = names.filter(name => (state.files.get(name) || {}).fits === false);
        const family = (state.reference || {}).family || '–';
        const text =
            others.length &&
            t('Not made for the loaded checkpoint ({family}): {names}. Load another checkpoint first.', {
                family,
                names: listed(others, 3),
            });
        return imageForm.warnings([text]);
    }

    function foot(form) {
        const {parts} = form;
        const words = form.names.length > 1 ? t('Find and save') : t('Find');
        parts.run = primaryButton(words, () => startFind(form), {
            id: 'resize_lora_find_run',
            'data-action': 'find-run',
        });
        parts.fault = el('p', {class: 'resize-lora-fault', role: 'alert', id: 'resize_lora_find_fault'});
        return [parts.fault, el('div', {class: 'resize-lora-foot resize-lora-dialog-foot'}, el('span'), parts.run)];
    }

    function drawForm(form) {
        const {parts, names, seeds, isFitted} = form;
        const fault = imageForm.drawGoal(form);
        setText(parts.fault, fault);
        const images = aboutImages(seeds, isFitted && can('fit') ? FIT_IMAGES : 0);
        setText(parts.cost, imageForm.costText(images, names.length));
        setText(parts.tagNote, tagText(form));
        parts.run.disabled = Boolean(fault);
    }

    function tagText({names, prompt, tag}) {
        if (names.length > 1) return imageForm.templateText();
        if (!tag || hasTag(prompt, [tag.name, ...tag.old_names])) return '';
        const words = [tag.activation, tag.tag].filter(Boolean).join(' ');
        return t('The prompt has no tag of this LoRA. Added to it: {words}', {words});
    }

    /* The tag is read for the note alone, so an error here is left to the search. */
    async function askTag(form) {
        if (form.tag || form.names.length > 1) return;
        try {
            form.tag = await callForFile('prompt_tag', {name: form.names[0]});
            drawForm(form);
        } catch (error) {
            console.warn('Resize LoRA: no tag', error);
        }
    }

    async function startFind(form) {
        const {names, seeds, isFitted, parts} = form;
        const isOne = names.length === 1;
        parts.run.disabled = true;
        imageForm.keepAnswers(form);
        try {
            const answer = await callForFile('find', {
                ...(isOne ? {name: names[0]} : {names, save: true}),
                target: imageForm.shareOf(form),
                settings: imageForm.settingsOf(form),
                seeds,
                options: form.options,
                ...(isFitted && can('fit') ? {fit: true} : {}),
            });
            addOwnJobs(answer.jobs);
            if (isOne && answer.job) resizeLora.findView.showFind(answer.job, form);
            else reportSearches(form, answer);
            poll();
        } catch (error) {
            parts.run.disabled = false;
            setText(parts.fault, errorText(error));
        }
    }

    /* Several searches go on without the dialog. What each of them finds is saved, because nobody watches. */
    function reportSearches({box}, {jobs, refused}) {
        if (!jobs.length) throw refused[0];
        box.close();
        refused.forEach(one => toast(`${one.name}: ${errorText(one)}`, {bad: true}));
        toast(t('{n} searches are queued. Their files will be in the results.', {n: count(jobs.length)}));
    }

    resizeLora.find = {openFind, showForm};
})((window.resizeLora = window.resizeLora || {}));
