/* Trigger words, the Civitai page, the folder and the records of the current LoRA. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.details) return;

    const {t} = resizeLora.words;
    const {button, el, later, quiet, show} = resizeLora.elements;
    const {recordLines} = resizeLora.effect;
    const {state} = resizeLora.model;
    const {isSelection} = resizeLora.choice;
    const {call} = resizeLora.wire;
    const {copyText, showError} = resizeLora.dialogs;

    const parts = {box: null, key: ''};

    function frameDetails() {
        parts.box = el('div', {id: 'resize_lora_details', class: 'resize-lora-details', hidden: true});
        return parts.box;
    }

    function drawDetails() {
        if (!parts.box) return;
        const name = isSelection() ? null : state.current;
        const found = name == null ? null : state.details.get(name);
        const key = found ? JSON.stringify(found) : '';
        if (name != null && state.files.has(name) && !found) askSoon();
        if (key === parts.key) return;
        parts.key = key;
        const content = found ? detailParts(found) : [];
        parts.box.replaceChildren(...content);
        show(parts.box, content.length > 0);
    }

    function detailParts(found) {
        const words = [...new Set([found.activation, ...found.trained_words].filter(Boolean))];
        const about = {title: found.description || null};
        const content = [];
        if (words.length) {
            const text = words.join(', ');
            const copy = {'data-action': 'copy-words', title: t('Copy the trigger words')};
            content.push(quiet(t('Trigger words')), el('span', {class: 'resize-lora-words', ...about}, text));
            content.push(button(t('Copy'), () => copyText(text), copy));
        }
        if (found.civitai) {
            const link = {href: found.civitai, target: '_blank', rel: 'noopener noreferrer', 'data-action': 'civitai'};
            content.push(el('a', {...link, ...about}, t('Civitai')));
        }
        if (found.path && !state.hello.remote) {
            const open = {'data-action': 'open-folder', title: found.path};
            content.push(button(t('Open folder'), () => openFolder(found.name), open));
        }
        const lines = recordLines(found).map(line => quiet(line, {'data-what': 'record'}));
        return [...content, ...lines];
    }

    const askSoon = later(async () => {
        const name = state.current;
        if (!state.files.has(name) || state.details.has(name)) return;
        try {
            state.details.set(name, await call('details', {name}));
            drawDetails();
        } catch (error) {
            console.warn('Resize LoRA: no details', error);
        }
    }, 250);

    async function openFolder(name) {
        try {
            await call('open_folder', {name});
        } catch (error) {
            showError(error);
        }
    }

    resizeLora.details = {drawDetails, frameDetails};
})((window.resizeLora = window.resizeLora || {}));
