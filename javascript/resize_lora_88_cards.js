/* The menu on the host's LoRA cards, and on rows of the library. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.cards) return;

    const {size} = resizeLora.numbers;
    const {t} = resizeLora.words;
    const {errorText, messageText} = resizeLora.messages;
    const {button, el, hostOption, hostRoot, setText} = resizeLora.elements;
    const {PRESETS, PRESET_WORDS, state} = resizeLora.model;
    const {can, changedOptions} = resizeLora.choice;
    const {call} = resizeLora.wire;
    const {disableItem, menuItem, showMenu} = resizeLora.menu;
    const {showError, toast} = resizeLora.dialogs;
    const {readLibrary, start} = resizeLora.session;
    const {follow} = resizeLora.jobs;
    const {sameText} = resizeLora.orders;
    const {openInTab} = resizeLora.library;
    const {startComparison} = resizeLora.compare;
    const {replaceCard, replaceText} = resizeLora.replacing;

    const SUFFIX = /\.(safetensors|ckpt|pt)$/i;

    /* The LoRA of the card, tree row or library row around an element: {name, tab}; null elsewhere. */
    function cardOf(element) {
        const row = element.closest && element.closest('.card, .tree-list-content-file, .resize-lora-row');
        if (!row) return null;
        const {mainTab} = resizeLora.prompt;
        if (row.classList.contains('resize-lora-row')) return {name: row.dataset.name, tab: mainTab()};
        const page = row.closest('[id$="_lora_cards"], [id$="_lora_tree"]');
        const name = page && cardName(row);
        return name ? {name, tab: page.id.replace(/_lora_(cards|tree)$/, '')} : null;
    }

    /* The name of a card's LoRA. SD.Next has its folder in the name, and the file in `filename`. */
    function cardName(row) {
        const {filename, name} = row.dataset;
        if (filename && SUFFIX.test(filename)) {
            const stem = filename.split(/[\\/]/).pop().replace(SUFFIX, '');
            return state.files.has(name) && !state.files.has(stem) ? name : stem;
        }
        if (name) return name;
        const copy = row.querySelector('.copy-path-button');
        const path = [copy && copy.dataset.clipboardText, row.dataset.path].find(text => text && SUFFIX.test(text));
        if (path) return path.split(/[\\/]/).pop().replace(SUFFIX, '');
        const label = row.querySelector('.tree-list-item-label');
        return label ? label.textContent.trim() : null;
    }

    function onContextMenu(event) {
        if (event.shiftKey || !hostRoot().querySelector('#resize_lora_send')) return;
        const target = event.composedPath()[0];
        const card = cardOf(target);
        if (!card || (hostOption('resize_lora_card_menu') === false && !target.closest('.resize-lora-row'))) return;
        event.preventDefault();
        event.stopPropagation();
        openMenu(card, event.clientX, event.clientY);
    }

    /* The small button on a card, for fingers; without it the click would write the LoRA into the prompt. */
    function onCardButton(event, tab) {
        event.stopPropagation();
        event.preventDefault();
        const card = cardOf(event.target);
        const box = event.target.getBoundingClientRect();
        if (card) openMenu({...card, tab: tab || card.tab}, box.left, box.bottom);
    }

    function openMenu(card, x, y) {
        const preset = name => menuItem(t(`Resize to ${PRESET_WORDS[name]}`), () => resizeCard(card, name), name);
        const compare = () => startComparison({name: card.name}, card.tab);
        const items = [
            menuItem(t('Resize…'), () => openInTab(card.name), 'open'),
            PRESETS.map(preset),
            menuItem(t('Find the smallest…'), () => findCard(card), 'find'),
            el('hr'),
            menuItem(replaceText(), () => replaceCard(card.name), 'replace'),
            menuItem(t('Compare with original'), compare, 'compare'),
        ];
        const menu = showMenu(card.name, items, x, y);
        fillMenu(menu, card);
        start()
            .then(() => readLibrary())
            .then(() => fillMenu(menu, card))
            .catch(showError);
    }

    /* Fills in the sizes, and disables what is not possible, with the reason. */
    function fillMenu(box, card) {
        const file = state.files.get(card.name);
        const item = key => box.querySelector(`[data-key="${key}"]`);
        const disable = (key, reason) => disableItem(item(key), reason);
        for (const name of PRESETS) {
            const bytes = file && file.predicted && file.predicted[name];
            setText(item(name).lastChild, bytes ? `≈ ${size(bytes)}` : '');
            disable(name, file && messageText(file.problem));
        }
        setText(item('replace').firstChild, replaceText());
        disable('replace', file && messageText(file.problem));
        disable('compare', whyNotCompared(file && file.ours));
        const noImages = can('generate') ? '' : t('Image generation is not available here.');
        disable('find', (file && messageText(file.problem)) || noImages);
    }

    function findCard({name, tab}) {
        resizeLora.find.openFind([name], {tab, options: cardOptions()});
    }

    /* How a new file is written from a card: the settings of the host, not the choices in the tab. */
    function cardOptions() {
        return changedOptions((state.hello.defaults || {}).options || {});
    }

    function whyNotCompared(made) {
        if (!can('generate')) return t('Image generation is not available here.');
        if (!made) return t('This file was not created by Resize LoRA.');
        return made.there ? '' : t('The original, {name}, was not found.', {name: made.source});
    }

    async function resizeCard(card, preset, again) {
        const note = toast(`${card.name}: ${t('queued')}`, {stays: true});
        try {
            await start();
            const options = cardOptions();
            const more = {...(Object.keys(options).length ? {options} : {}), ...(again ? {again} : {})};
            const answer = await call('resize', {names: [card.name], target: {preset}, ...more});
            reportCardOrder(card, preset, answer, note);
        } catch (error) {
            note.setText(`${card.name}: ${errorText(error)}`);
            note.leave();
        }
    }

    function reportCardOrder(card, preset, answer, note) {
        if (answer.refused.length) throw new Error(answer.refused[0].message);
        if (answer.jobs.length) {
            follow(answer.jobs[0], note);
            return;
        }
        const again = () => {
            note.close();
            resizeCard(card, preset, true);
        };
        note.setText(sameText(answer.same));
        note.offer(button(t('Resize again'), again));
        note.leave();
    }

    resizeLora.cards = {cardName, onCardButton, onContextMenu};
})((window.resizeLora = window.resizeLora || {}));
