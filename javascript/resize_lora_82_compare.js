/* Comparison of images made with the original and the resized LoRA. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.compare) return;

    const {round} = resizeLora.numbers;
    const {t} = resizeLora.words;
    const {messageText} = resizeLora.messages;
    const {SEEDS} = resizeLora.effect;
    const {button, chooser, download, el, hostRoot, input, quiet, quietLine, show} = resizeLora.elements;
    const {state} = resizeLora.model;
    const {call} = resizeLora.wire;
    const {dialog, showError, toast} = resizeLora.dialogs;
    const {callForFile} = resizeLora.session;
    const {follow} = resizeLora.jobs;

    /* Setting -> its place in a tab of the host, or its places: the last is that of SD.Next's tab control. */
    const SETTINGS = {
        prompt: 'prompt textarea',
        negative_prompt: 'neg_prompt textarea',
        seed: 'seed input',
        steps: 'steps input[type=number]',
        cfg_scale: 'cfg_scale input[type=number]',
        width: ['width input[type=number]', 'before_resize_width input[type=number]'],
        height: ['height input[type=number]', 'before_resize_height input[type=number]'],
        sampler_name: 'sampling input',
        scheduler: 'scheduler input',
    };
    const TEXT_SETTINGS = ['prompt', 'negative_prompt', 'sampler_name', 'scheduler'];

    const asked = new Map(); // id of a job -> its parameters, so that it can be repeated with more images

    function startComparison(about, tab) {
        const settings = imageSettings(tab || resizeLora.prompt.mainTab());
        return ask({...about, settings, without: state.withBaseline, seeds: state.comparedSeeds});
    }

    async function ask(params) {
        try {
            const {job} = await callForFile('compare', params);
            asked.set(job, params);
            follow(job, toast(t('Compare'), {stays: true}));
        } catch (error) {
            showError(error);
        }
    }

    /* The settings of a tab of the host, as far as it has them. A negative number, except of a seed, is for the host
       to replace. */
    function imageSettings(tab) {
        const settings = {};
        for (const [name, place] of Object.entries(SETTINGS)) {
            const found = [place].flat().map(one => hostRoot().querySelector(`#${tab}_${one}`));
            const field = found.find(Boolean);
            if (!field || (field.value === '' && !name.endsWith('prompt'))) continue;
            const value = TEXT_SETTINGS.includes(name) ? field.value : Number(field.value);
            if (!(value < 0) || name === 'seed') settings[name] = value;
        }
        return settings;
    }

    /* The images are asked for one by one, because they are large. */
    async function openComparison(result, job) {
        try {
            const images = {};
            for (const {id, what} of result.pictures) {
                const {png} = await call('picture', {id});
                images[what] = `data:image/png;base64,${png}`;
            }
            showComparison(result, images, asked.get(job));
            if (result.kept != null) await readKept();
        } catch (error) {
            showError(error);
        }
    }

    /* Reads the results and the open report again: the figure is kept with the file. */
    async function readKept() {
        resizeLora.results.setResults(await call('results'));
        if (state.runs.page) await resizeLora.runs.readItems(state.runs.page);
    }

    function showComparison(result, images, params) {
        const wipe = wipeView(images);
        const names = {slider: t('Side by side'), difference: t('Difference'), without: t('Without the LoRA')};
        const pages = {slider: wipe.stage};
        for (const what of ['difference', 'without'].filter(one => images[one])) {
            pages[what] = el('div', {class: 'resize-lora-stage', hidden: true}, image(images[what], names[what]));
        }
        const choices = Object.keys(pages).map(key => [key, names[key]]);
        const view = chooser('resize_lora_view', t('View'), choices, 'slider', key => {
            Object.entries(pages).forEach(([name, page]) => show(page, name === key));
            show(wipe.slider, key === 'slider');
        });
        const save = button(t('Save images'), () => saveImages(result, images), {id: 'resize_lora_save_pictures'});
        const about = [result.resized.name, `seed ${result.seed}`, `${result.width}×${result.height}`].join(' · ');
        const more = params && params.without ? seedChooser(result, params, () => box.close()) : [];
        const tools = el('div', {class: 'resize-lora-tools'}, view, more, save, quiet(about));
        const box = dialog(t('Compare'), [Object.values(pages), wipe.slider, figureLines(result), tools]);
        wipe.slider.focus();
    }

    /* Another number of images repeats the comparison, with the same first seed. */
    function seedChooser(result, params, close) {
        const choices = SEEDS.map(n => [String(n), t('Images: {n}', {n})]);
        const choose = value => {
            state.comparedSeeds = Number(value);
            close();
            ask({...params, settings: {...params.settings, seed: result.seed}, seeds: state.comparedSeeds});
        };
        const chosen = String(result.seeds.length);
        const select = chooser('resize_lora_seeds', t('Number of images'), choices, chosen, choose);
        select.title = t('More images make the figure more certain.');
        return select;
    }

    /* What the comparison says, and below it the pixels. */
    function figureLines(result) {
        const pixels = differenceText(result);
        if (result.kept == null && !result.weak) return el('p', null, pixels);
        const own = {class: 'resize-lora-effect', 'data-weak': String(result.weak)};
        const note = result.note ? [quietLine(messageText(result.note))] : [];
        return [el('p', own, messageText(result.text)), quietLine(pixels), ...note];
    }

    function image(address, text) {
        return el('img', {src: address, alt: text});
    }

    /* Both images over each other: the original on the left of a line that the slider or the pointer moves. */
    function wipeView(images) {
        const over = el('div', {class: 'resize-lora-over'}, image(images.original, t('Original')));
        const line = el('div', {class: 'resize-lora-line'});
        const left = el('span', {class: 'resize-lora-tag'}, t('Original'));
        const right = el('span', {class: 'resize-lora-tag resize-lora-tag-right'}, t('Resized'));
        const resized = image(images.resized, t('Resized'));
        const stage = el('div', {class: 'resize-lora-stage'}, resized, over, line, left, right);
        const wipe = () => {
            over.style.clipPath = `inset(0 ${100 - slider.value}% 0 0)`;
            line.style.left = `${slider.value}%`;
        };
        const own = {min: '0', max: '100', value: '50', 'aria-label': t('Original on the left, resized on the right')};
        const slider = input('range', 'resize_lora_wipe', {...own, on: {input: wipe}});
        stage.addEventListener('pointermove', event => {
            if (event.pointerType === 'mouse' && event.buttons !== 1) return;
            const box = stage.getBoundingClientRect();
            slider.value = String((100 * (event.clientX - box.left)) / box.width);
            wipe();
        });
        wipe();
        return {stage, slider};
    }

    function differenceText(result) {
        const number = t('Mean pixel difference {number} of 255', {number: round(result.number, 2)});
        if (result.effect == null) return `${number}.`;
        return `${number}; ${t('without the LoRA {number}', {number: round(result.effect, 2)})}.`;
    }

    /* Each image goes to the browser's folder of downloads. */
    function saveImages(result, images) {
        for (const [what, address] of Object.entries(images)) {
            if (address) download(address, `${result.resized.name}_${what}_${result.seed}.png`);
        }
    }

    resizeLora.compare = {imageSettings, openComparison, startComparison, wipeView};
})((window.resizeLora = window.resizeLora || {}));
