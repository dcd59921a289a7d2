/* The dialog *Find the smallest*, before the search: what is kept, the prompt, and how many images it takes. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.find) return;

    const {count} = resizeLora.numbers;
    const {listed, t} = resizeLora.words;
    const {aboutImages, hasTag, settingsText, targetOf, templateOf} = resizeLora.findWords;
    const {SEEDS} = resizeLora.effect;
    const {errorText} = resizeLora.messages;
    const {checkbox, chooser, el, input, labelled, primaryButton, quiet, setText, show} = resizeLora.elements;
    const {keep, kept} = resizeLora.storage;
    const {state} = resizeLora.model;
    const {can} = resizeLora.choice;
    const {dialog, showError, toast} = resizeLora.dialogs;
    const {callForFile, start} = resizeLora.session;
    const {poll} = resizeLora.jobs;
    const {addOwnJobs} = resizeLora.ownJobs;
    const {FIT_IMAGES, fitHint} = resizeLora.fit;

    const OWN = 'own';

    /* Opens the dialog about LoRAs. `tab`: the tab of the host whose prompt is used; `options`: of the new file. */
    async function openFind(names, {tab = 'txt2img', options = {}} = {}) {
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
        const last = kept('find') || {};
        const isOne = names.length === 1;
        const prompt = isOne ? settings.prompt || '' : templateOf(settings.prompt || '');
        return {
            names,
            tab,
            options,
            settings,
            goal: last.goal || '0.98',
            own: last.own || '97',
            prompt,
            negative: settings.negative_prompt || '',
            seeds: SEEDS.includes(last.seeds) ? last.seeds : 4,
            isFitted: Boolean(last.isFitted),
            box: null,
            body: null,
            parts: {},
        };
    }

    /* Fills the dialog with the questions; a search that ended comes back here. */
    function showForm(form) {
        const {names} = form;
        const what = names.length > 1 ? t('{n} LoRAs: {names}', {n: count(names.length), names: listed(names, 3)}) : '';
        const content = [
            el('p', null, el('strong', null, what || names[0])),
            el('p', null, introText(names)),
            goalField(form),
            promptFields(form),
            imagesField(form),
            fitField(form),
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

    function goals() {
        return [
            ['0.98', t('Same image'), t('No difference to see')],
            ['0.95', t('Hardly visible'), t('Small details may differ')],
            ['0.9', t('Same character'), t('Subject and style stay')],
            [OWN, t('Own value'), ''],
        ];
    }

    function goalField(form) {
        const {parts} = form;
        const own = {min: '50', max: '99.9', step: 'any', value: form.own, on: {input: () => setOwn()}};
        const field = input('number', 'resize_lora_find_own', own);
        const setOwn = () => {
            form.own = field.value;
            drawForm(form);
        };
        parts.own = labelled(t('Effect to keep, %'), field);
        parts.ownField = field;
        const choose = value => {
            form.goal = value;
            drawForm(form);
            if (value === OWN) field.focus();
        };
        const choices = goals().map(([value, text, hint]) => goalChoice(form, [value, text, hint], choose));
        const label = t("Share of the LoRA's effect on the images that must stay");
        const group = {class: 'resize-lora-presets', role: 'radiogroup', 'aria-label': label};
        return el('div', {class: 'resize-lora-find-goal'}, quiet(label), el('div', group, choices), parts.own);
    }

    function goalChoice(form, [value, text, hint], choose) {
        const radio = input('radio', `resize_lora_find_goal_${value.replace('0.', '')}`, {
            name: 'resize_lora_find_goal',
            checked: value === form.goal,
            on: {change: () => choose(value)},
        });
        const figure = quiet(`${Math.round(100 * value)} %`);
        if (value === OWN) form.parts.ownText = figure;
        const name = el('span', {class: 'resize-lora-preset-name'}, text);
        const note = quiet(hint, {class: 'resize-lora-quiet resize-lora-preset-note'});
        return el('label', {'data-key': value}, radio, name, figure, note);
    }

    function promptFields(form) {
        const {parts} = form;
        const area = (id, rows, name) =>
            el('textarea', {
                id,
                rows,
                class: 'resize-lora-prompt',
                spellcheck: 'false',
                on: {
                    input: event => {
                        form[name] = event.target.value;
                        drawForm(form);
                    },
                },
            });
        const prompt = area('resize_lora_find_prompt', '3', 'prompt');
        const negative = area('resize_lora_find_negative', '2', 'negative');
        prompt.value = form.prompt;
        negative.value = form.negative;
        parts.tagNote = el('p', {class: 'resize-lora-quiet', id: 'resize_lora_find_tag', 'aria-live': 'polite'});
        return [labelled(promptLabel(form), prompt), parts.tagNote, labelled(t('Negative prompt'), negative)];
    }

    function promptLabel({names}) {
        return names.length > 1 ? t('Prompt template') : t('Prompt');
    }

    function imagesField(form) {
        const {parts} = form;
        const choices = SEEDS.map(n => [String(n), String(n)]);
        const select = chooser('resize_lora_find_seeds', t('Seeds'), choices, String(form.seeds), value => {
            form.seeds = Number(value);
            drawForm(form);
        });
        const hint = t('With more seeds the result is more certain and takes longer');
        parts.cost = el('p', {id: 'resize_lora_find_cost', role: 'status'});
        const settings = quiet(
            t('Settings of {tab}: {settings}', {tab: form.tab, settings: settingsText(form.settings)}),
        );
        return [
            el('div', {class: 'resize-lora-find-images'}, labelled(t('Seeds'), select, hint), settings),
            parts.cost,
            warnings(form),
        ];
    }

    /* What speaks against a search here, before it begins. */
    function warnings({names}) {
        const others = names.filter(name => (state.files.get(name) || {}).fits === false);
        const family = (state.reference || {}).family || '–';
        const texts = [
            state.hello.device === 'cpu' && t('This server uses the CPU, where an image takes minutes. Use a GPU.'),
            others.length &&
                t('Not made for the loaded checkpoint ({family}): {names}. Load another checkpoint first.', {
                    family,
                    names: listed(others, 3),
                }),
        ].filter(Boolean);
        if (!texts.length) return [];
        return el(
            'ul',
            {class: 'resize-lora-warnings'},
            texts.map(text => el('li', null, text)),
        );
    }

    function fitField(form) {
        if (!can('fit')) return [];
        const text = t('Fit to my images (2 minutes on a GPU)');
        const box = checkbox('resize_lora_find_fit', text, form.isFitted, checked => {
            form.isFitted = checked;
            drawForm(form);
        });
        box.querySelector('input').setAttribute('aria-describedby', 'resize_lora_find_fit_about');
        return el('div', {class: 'resize-lora-find-fit'}, box, quiet(fitHint(), {id: 'resize_lora_find_fit_about'}));
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

    function shareOf(form) {
        return form.goal === OWN ? targetOf(form.own) : Number(form.goal);
    }

    function drawForm(form) {
        const {parts, names, seeds, isFitted} = form;
        const isValid = shareOf(form) != null;
        setText(parts.ownText, targetOf(form.own) == null ? '–' : `${Number(form.own)} %`);
        show(parts.own, form.goal === OWN);
        parts.ownField.setAttribute('aria-invalid', String(!isValid));
        setText(parts.fault, isValid ? '' : t('Enter a percentage from 50 to 99.9.'));
        setText(parts.cost, costText(aboutImages(seeds, isFitted && can('fit') ? FIT_IMAGES : 0), names.length));
        setText(parts.tagNote, tagText(form));
        parts.run.disabled = !isValid;
    }

    /* How long it takes is known to the person from txt2img, and to nobody else before the first image. */
    function costText(images, loras) {
        const values = {n: count(images), all: count(images * loras)};
        if (loras === 1) {
            return `${t('About {n} images.', values)} ${t('They take as long as in txt2img: a few minutes on a GPU.')}`;
        }
        const each = t('About {n} images for each LoRA, {all} together.', values);
        return `${each} ${t('They take as long as in txt2img: a few minutes for each LoRA on a GPU.')}`;
    }

    function tagText({names, prompt, tag}) {
        if (names.length > 1) {
            return t('For LoRAs without an example prompt of their own. {trigger} becomes the trigger words.');
        }
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

    function settingsOf({settings, prompt, negative}) {
        return {...settings, prompt, negative_prompt: negative};
    }

    async function startFind(form) {
        const {names, goal, own, seeds, isFitted, parts} = form;
        const isOne = names.length === 1;
        parts.run.disabled = true;
        keep('find', {goal, own, seeds, isFitted});
        try {
            const answer = await callForFile('find', {
                ...(isOne ? {name: names[0]} : {names, save: true}),
                target: shareOf(form),
                settings: settingsOf(form),
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
