/* Questions about images that decide, for one dialog or another: what is kept, the prompts, and how many images.

   A form is {id, tab, settings, goal, own, prompt, negative, seeds, isFitted, parts, draw}: `id` is a part of the ids
   of its fields, `parts` are its elements, and `draw` is called after each answer. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.imageForm) return;

    const {count} = resizeLora.numbers;
    const {t} = resizeLora.words;
    const {settingsText, targetOf} = resizeLora.findWords;
    const {SEEDS} = resizeLora.effect;
    const {spanText} = resizeLora.items;
    const {checkbox, chooser, el, input, labelled, quiet, setText, show} = resizeLora.elements;
    const {keep, kept} = resizeLora.storage;
    const {state} = resizeLora.model;

    const OWN = 'own';

    /* A form with the last answers, and the settings of a tab of the host. */
    function newForm(id, {tab, settings, prompt}) {
        const last = kept('find') || {};
        return {
            id,
            tab,
            settings,
            goal: last.goal || '0.98',
            own: last.own || '97',
            prompt,
            negative: settings.negative_prompt || '',
            seeds: SEEDS.includes(last.seeds) ? last.seeds : 4,
            isFitted: Boolean(last.isFitted),
            parts: {},
            draw() {},
        };
    }

    function keepAnswers({goal, own, seeds, isFitted}) {
        keep('find', {goal, own, seeds, isFitted});
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
        const {id, parts} = form;
        const own = {min: '50', max: '99.9', step: 'any', value: form.own, on: {input: () => setOwn()}};
        const field = input('number', `resize_lora_${id}_own`, own);
        const setOwn = () => {
            form.own = field.value;
            form.draw();
        };
        parts.own = labelled(t('Effect to keep, %'), field);
        parts.ownField = field;
        const choose = value => {
            form.goal = value;
            form.draw();
            if (value === OWN) field.focus();
        };
        const choices = goals().map(([value, text, hint]) => goalChoice(form, [value, text, hint], choose));
        const label = t("Share of the LoRA's effect on the images that must stay");
        const group = {class: 'resize-lora-presets', role: 'radiogroup', 'aria-label': label};
        return el('div', {class: 'resize-lora-find-goal'}, quiet(label), el('div', group, choices), parts.own);
    }

    function goalChoice(form, [value, text, hint], choose) {
        const radio = input('radio', `resize_lora_${form.id}_goal_${value.replace('0.', '')}`, {
            name: `resize_lora_${form.id}_goal`,
            checked: value === form.goal,
            on: {change: () => choose(value)},
        });
        const figure = quiet(`${Math.round(100 * value)} %`);
        if (value === OWN) form.parts.ownText = figure;
        const name = el('span', {class: 'resize-lora-preset-name'}, text);
        const note = quiet(hint, {class: 'resize-lora-quiet resize-lora-preset-note'});
        return el('label', {'data-key': value}, radio, name, figure, note);
    }

    function promptFields(form, label) {
        const {id, parts} = form;
        const area = (name, rows, value) => {
            const read = event => {
                form[name] = event.target.value;
                form.draw();
            };
            const own = {rows, class: 'resize-lora-prompt', spellcheck: 'false', on: {input: read}};
            const field = el('textarea', {id: `resize_lora_${id}_${name}`, ...own});
            field.value = value;
            return field;
        };
        const prompt = area('prompt', '3', form.prompt);
        const negative = area('negative', '2', form.negative);
        parts.tagNote = el('p', {class: 'resize-lora-quiet', id: `resize_lora_${id}_tag`, 'aria-live': 'polite'});
        return [labelled(label, prompt), parts.tagNote, labelled(t('Negative prompt'), negative)];
    }

    /* What becomes of the prompt where each of several LoRAs has its own. */
    function templateText() {
        const first = t("The prompt of a LoRA's example image comes first.");
        return `${first} ${t('Other LoRAs use this template: {trigger} becomes the activation text.')}`;
    }

    function seedsField(form) {
        const {id, parts} = form;
        const choices = SEEDS.map(n => [String(n), String(n)]);
        const select = chooser(`resize_lora_${id}_seeds`, t('Seeds'), choices, String(form.seeds), value => {
            form.seeds = Number(value);
            form.draw();
        });
        const hint = t('With more seeds the result is more certain and takes longer');
        parts.seeds = labelled(t('Seeds'), select, hint);
        const settings = quiet(
            t('Settings of {tab}: {settings}', {tab: form.tab, settings: settingsText(form.settings)}),
        );
        return el('div', {class: 'resize-lora-find-images'}, parts.seeds, settings);
    }

    function costLine(form) {
        form.parts.cost = el('p', {id: `resize_lora_${form.id}_cost`, role: 'status'});
        return form.parts.cost;
    }

    /* What so many images for each of some LoRAs cost. Before the first image, the time of one is known to the person
       from txt2img, and to nobody else. */
    function costText(images, loras, seconds = null) {
        const values = {n: count(images), all: count(images * loras)};
        const each = t('About {n} images for each LoRA, {all} together.', values);
        const amount = loras === 1 ? t('About {n} images.', values) : each;
        if (seconds != null) return `${amount} ${t('That takes about {time}.', {time: spanText(seconds)})}`;
        const one = t('They take as long as in txt2img: a few minutes on a GPU.');
        const several = t('They take as long as in txt2img: a few minutes for each LoRA on a GPU.');
        return `${amount} ${loras === 1 ? one : several}`;
    }

    /* What speaks against images here, as a list; `more` are further texts. */
    function warnings(more = []) {
        const cpu =
            state.hello.device === 'cpu' && t('This server uses the CPU, where an image takes minutes. Use a GPU.');
        const texts = [cpu, ...more].filter(Boolean);
        const lines = texts.map(text => el('li', null, text));
        return texts.length ? el('ul', {class: 'resize-lora-warnings'}, lines) : [];
    }

    function fitField(form, text) {
        const id = `resize_lora_${form.id}_fit`;
        const box = checkbox(id, text, form.isFitted, checked => {
            form.isFitted = checked;
            form.draw();
        });
        box.querySelector('input').setAttribute('aria-describedby', `${id}_about`);
        return el('div', {class: 'resize-lora-find-fit'}, box, quiet(resizeLora.fit.fitHint(), {id: `${id}_about`}));
    }

    /* The share that is kept; null where the person's own value is none. */
    function shareOf(form) {
        return form.goal === OWN ? targetOf(form.own) : Number(form.goal);
    }

    /* Draws the goal; returns '' or what is wrong with it. */
    function drawGoal(form) {
        const {parts} = form;
        const isValid = shareOf(form) != null;
        setText(parts.ownText, targetOf(form.own) == null ? '–' : `${Number(form.own)} %`);
        show(parts.own, form.goal === OWN);
        parts.ownField.setAttribute('aria-invalid', String(!isValid));
        return goalFault(form);
    }

    function goalFault(form) {
        return shareOf(form) == null ? t('Enter a percentage from 50 to 99.9.') : '';
    }

    function settingsOf({settings, prompt, negative}) {
        return {...settings, prompt, negative_prompt: negative};
    }

    resizeLora.imageForm = {
        costLine,
        costText,
        drawGoal,
        fitField,
        goalFault,
        goalField,
        keepAnswers,
        newForm,
        promptFields,
        seedsField,
        settingsOf,
        shareOf,
        templateText,
        warnings,
    };
})((window.resizeLora = window.resizeLora || {}));
