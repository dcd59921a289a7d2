/* The report of a run: its files, sorted and filtered, with *Compare* and *Restore*. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.runPage) return;

    const {count, percent, saving, size, sizes} = resizeLora.numbers;
    const {plural, t} = resizeLora.words;
    const {messageText} = resizeLora.messages;
    const {effectHint, effectText, shareText} = resizeLora.effect;
    const {csvText} = resizeLora.text;
    const {FILTERS, filterCounts, jsonText, sorted, tableOf} = resizeLora.items;
    const {button, chooser, download, el, input, quiet, setText, show} = resizeLora.elements;
    const {virtualList} = resizeLora.virtual;
    const {state} = resizeLora.model;
    const {can} = resizeLora.choice;
    const {dialog, showError} = resizeLora.dialogs;
    const {confirmButton} = resizeLora.confirm;
    const {itemNote, madeText, momentText} = resizeLora.runWords;
    const {readItems, restoreOriginals, undoButton} = resizeLora.runs;

    const parts = {
        box: null, // the dialog; null where none is open
        figures: null,
        filters: null,
        list: null,
        order: 'risk',
        filter: 'all',
        chosen: new Set(), // names
        all: null,
        restore: null,
        undo: null,
        undoFor: null, // whether the run could be undone when the button was made
        empty: null,
    };

    async function openRunPage(id) {
        try {
            if (!state.runs.items.has(id)) await readItems(id);
        } catch (error) {
            showError(error);
            return;
        }
        state.runs.page = id;
        Object.assign(parts, {filter: 'all', chosen: new Set(), undoFor: null});
        const content = [frameFigures(), frameTools(), frameHead(), frameList(), frameFoot()];
        parts.box = dialog(
            `${t('Report')} · ${runTitle(runNow())}`,
            el('div', {class: 'resize-lora-run-page'}, content),
        );
        parts.box.addEventListener('close', () => {
            parts.box = state.runs.page = null;
        });
        drawRunPage();
    }

    function runNow() {
        return state.runs.list.find(run => run.run === state.runs.page);
    }

    function runTitle(run) {
        return `${madeText(run)} · ${momentText(run.began)}`;
    }

    function frameFigures() {
        const names = {freed: t('Freed'), resized: t('Resized'), left: t('Left alone'), failed: t('Failed')};
        if (runNow().effect != null) names.target = t('Target');
        parts.figures = {};
        const cells = Object.entries(names).map(([name, text]) => {
            parts.figures[name] = el('strong', {class: 'resize-lora-run-figure', 'data-key': name});
            return el('div', null, quiet(text), parts.figures[name]);
        });
        return el('div', {class: 'resize-lora-run-figures'}, cells);
    }

    function frameTools() {
        const orders = [
            ['risk', t('Risk')],
            ['gain', t('Gain')],
            ['name', t('Name')],
        ];
        const order = chooser('resize_lora_run_order', t('Sort by'), orders, parts.order, value => {
            parts.order = value;
            drawRunPage();
        });
        order.title = t('Risk: lowest weight retention first, then files with notes');
        parts.filters = el('div', {class: 'resize-lora-chips', role: 'group', 'aria-label': t('Show')});
        return el('div', {class: 'resize-lora-tools'}, parts.filters, order);
    }

    function filterWords() {
        return {
            all: t('All'),
            resized: t('Resized'),
            left: t('Left alone'),
            failed: t('Failed'),
            restored: t('Restored'),
            open: t('Waiting'),
        };
    }

    function drawFilters(items) {
        const counts = filterCounts(items);
        const words = filterWords();
        const shown = Object.keys(words).filter(name => name === 'all' || counts[name] || name === parts.filter);
        const before = parts.filters.contains(document.activeElement) && document.activeElement.dataset.filter;
        const chip = name => {
            const pick = () => {
                parts.filter = name;
                drawRunPage();
            };
            const own = {'data-filter': name, 'aria-pressed': String(name === parts.filter)};
            return button(`${words[name]} ${count(counts[name])}`, pick, own);
        };
        parts.filters.replaceChildren(...shown.map(chip));
        if (before) parts.filters.querySelector(`[data-filter="${before}"]`).focus();
    }

    function frameHead() {
        const label = t('Select all that are shown');
        const own = {'aria-label': label, title: label, on: {change: () => chooseAll(parts.all.checked)}};
        parts.all = input('checkbox', 'resize_lora_run_all', own);
        const texts = [t('Name'), t('Size'), t('Saved'), t('Weight retention')];
        const heads = texts.map(text => quiet(text));
        const row = {class: 'resize-lora-run-grid resize-lora-run-heads', 'data-narrow': label};
        return el('div', row, parts.all, heads);
    }

    function frameList() {
        parts.list = virtualList(t('Files of the run'), makeRow, fillRow);
        parts.empty = el('p', {class: 'resize-lora-quiet resize-lora-empty'}, t('No files.'));
        return [parts.list.box, parts.empty];
    }

    function frameFoot() {
        const csv = button(t('Save as CSV'), () => save('csv'), {'data-action': 'csv'});
        const json = button(t('Save as JSON'), () => save('json'), {'data-action': 'json'});
        const ask = () => {
            const found = chosenEntries();
            return plural(found.length, 'Restore {n} original?', 'Restore {n} originals?');
        };
        const work = () => {
            restoreOriginals({entries: chosenEntries()});
            parts.chosen.clear();
        };
        parts.restore = confirmButton('', {ask, sure: t('Restore'), work, 'data-action': 'restore-chosen'});
        parts.undo = el('span');
        return el('div', {class: 'resize-lora-foot resize-lora-dialog-foot'}, csv, json, parts.restore, parts.undo);
    }

    function makeRow() {
        const row = el('div', {class: 'resize-lora-run-grid'});
        const compare = () => resizeLora.compare.startComparison({entry: row.item.entry});
        row.parts = {
            tick: input('checkbox', null, {on: {change: () => tick(row.item, row.parts.tick.checked)}}),
            name: el('strong', {class: 'resize-lora-cut'}),
            note: quiet('', {class: 'resize-lora-quiet resize-lora-cut'}),
            sizes: el('span', {class: 'resize-lora-run-sizes'}),
            saved: el('span', {class: 'resize-lora-run-saved'}),
            retention: el('span', {class: 'resize-lora-run-retention'}),
            compare: button(t('Compare'), compare, {'data-action': 'compare'}),
            restore: button(t('Restore'), () => restoreOriginals({entries: [row.item.entry]}), {
                'data-action': 'restore',
            }),
        };
        const {tick: box, name, note, compare: left, restore: right, ...cells} = row.parts;
        const tools = el('span', {class: 'resize-lora-result-tools'}, left, right);
        row.append(box, el('span', {class: 'resize-lora-run-name'}, name, note), ...Object.values(cells), tools);
        return row;
    }

    function fillRow(row, item) {
        const {tick: box, name, note, compare, restore, ...cells} = row.parts;
        const isMade = item.bytes_after != null && item.state !== 'left';
        const text = itemNote(item);
        const effect = effectText(item.effect, {isWhole: true});
        const notes = item.state === 'left' ? [text, effect] : [effect, text]; // the more important one first
        row.item = item;
        row.dataset.key = item.name;
        row.dataset.state = item.state;
        row.title = messageText(item.message);
        box.checked = parts.chosen.has(item.name);
        box.setAttribute('aria-label', t('Select {name}', {name: item.name}));
        setText(name, item.name);
        setText(note, [item.folder, ...notes].filter(Boolean).join(' · '));
        note.title = [effectHint(item.effect), text].filter(Boolean).join('\n');
        setText(cells.sizes, isMade ? sizes(item.bytes_before, item.bytes_after) : size(item.bytes_before));
        setText(cells.saved, isMade ? saving(item.bytes_before, item.bytes_after) : '');
        setText(cells.retention, item.retention == null ? '' : percent(item.retention));
        row.classList.toggle('resize-lora-failed', item.state === 'failed');
        fillTools(compare, restore, item);
        box.disabled = !isRestorable(item);
    }

    function fillTools(compare, restore, item) {
        const able = isRestorable(item);
        show(compare, able);
        show(restore, able);
        compare.disabled = !can('generate');
        compare.title = can('generate') ? '' : t('Image generation is not available here.');
        compare.setAttribute('aria-label', `${t('Compare')}: ${item.name}`);
        restore.setAttribute('aria-label', `${t('Restore')}: ${item.name}`);
    }

    function isRestorable(item) {
        return item.state === 'resized' && Boolean(item.entry);
    }

    function itemsNow() {
        return state.runs.items.get(state.runs.page) || [];
    }

    function shownItems() {
        return sorted(itemsNow().filter(FILTERS[parts.filter]), parts.order);
    }

    function chosenEntries() {
        return itemsNow()
            .filter(item => parts.chosen.has(item.name) && isRestorable(item))
            .map(item => item.entry);
    }

    function tick(item, on) {
        if (on) parts.chosen.add(item.name);
        else parts.chosen.delete(item.name);
        drawRunPage();
    }

    function chooseAll(on) {
        for (const item of shownItems().filter(isRestorable)) {
            if (on) parts.chosen.add(item.name);
            else parts.chosen.delete(item.name);
        }
        drawRunPage();
    }

    function drawRunPage() {
        const run = parts.box && runNow();
        if (!run) return;
        const shown = shownItems();
        setText(parts.figures.freed, size(run.freed));
        if (run.effect != null) setText(parts.figures.target, shareText(run.effect));
        for (const name of ['resized', 'left', 'failed']) setText(parts.figures[name], count(run[name]));
        drawFilters(itemsNow());
        parts.list.set(shown);
        show(parts.list.box, shown.length > 0);
        show(parts.empty, shown.length === 0);
        drawChoice(shown, run);
    }

    function drawChoice(shown, run) {
        const able = shown.filter(isRestorable);
        const ticked = able.filter(item => parts.chosen.has(item.name)).length;
        const chosen = chosenEntries().length;
        parts.all.disabled = !able.length;
        parts.all.checked = able.length > 0 && ticked === able.length;
        parts.all.indeterminate = ticked > 0 && ticked < able.length;
        setText(parts.restore, t('Restore {n} selected', {n: count(chosen)}));
        parts.restore.disabled = !chosen;
        if (parts.undoFor === run.archived) return;
        parts.undoFor = run.archived;
        parts.undo.replaceChildren(...(run.archived ? [undoButton(run)] : []));
    }

    /* The files that are shown, in their order. */
    function save(kind) {
        const items = shownItems();
        const text = kind === 'csv' ? csvText(tableOf(items)) : jsonText(runNow(), items);
        const type = kind === 'csv' ? 'text/csv' : 'application/json';
        const address = URL.createObjectURL(new Blob([text], {type}));
        download(address, `resize-lora-run.${kind}`);
        setTimeout(() => URL.revokeObjectURL(address), 10000);
    }

    resizeLora.runPage = {drawRunPage, openRunPage, runTitle};
})((window.resizeLora = window.resizeLora || {}));
