/* The library: search, filters, head and totals. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.library) return;

    const {count, size, sizes, sum} = resizeLora.numbers;
    const {plural, t} = resizeLora.words;
    const {matching, versionsOf} = resizeLora.filter;
    const {button, checkbox, chooser, el, input, section, setText, show} = resizeLora.elements;
    const {state} = resizeLora.model;
    const {expected} = resizeLora.choice;
    const {showError, toast} = resizeLora.dialogs;
    const {readLibrary, start} = resizeLora.session;
    const {analyse, setCurrent} = resizeLora.analysis;
    const {bringIntoView, drawRows, frameList, list, putCursor, selectAll} = resizeLora.rows;

    const parts = {
        family: null,
        fits: null,
        sort: null,
        search: null,
        all: null,
        heads: null,
        counts: null,
        totals: null,
        leftOut: null,
        more: null,
        clear: null,
        families: null, // the names that the chooser has
    };

    const COLUMNS = [
        ['name', 'Name'],
        ['family', 'Family'],
        ['kind', 'Type'],
        ['rank', 'Rank'],
        ['dtype', 'Dtype'],
        ['bytes', 'Size'],
        ['after', 'After'],
    ];

    const ORDERS = [...COLUMNS, ['modified', 'Newest']];

    function frameLibrary() {
        const box = section(t('Library'), 'library');
        box.append(frameTools(), frameHead(), frameList(), frameFoot());
        return box;
    }

    function frameTools() {
        const search = input('search', 'resize_lora_search', {
            placeholder: t('Search'),
            'aria-label': t('Search the library'),
            on: {input: () => setFilter({text: search.value})},
        });
        const families = [['', t('All families')]];
        const orders = ORDERS.map(([key, text]) => [key, t(text)]);
        parts.search = search;
        parts.family = chooser('resize_lora_family', t('Family'), families, '', family => setFilter({family}));
        parts.fits = checkbox('resize_lora_fits', t('Compatible'), false, fits => setFilter({fits}));
        parts.fits.title = t('Show only LoRAs for the model family of the loaded checkpoint');
        parts.sort = chooser('resize_lora_sort', t('Sort by'), orders, state.filter.sort, sort =>
            setFilter({sort, down: descends(sort)}),
        );
        const narrow = el('label', {class: 'resize-lora-narrow'}, parts.sort);
        const refresh = button(t('Refresh'), () => readLibrary(true).catch(showError), {id: 'resize_lora_refresh'});
        const shrink = resizeLora.shrink.shrinkButton();
        return el('div', {class: 'resize-lora-tools'}, search, parts.family, parts.fits, narrow, refresh, shrink);
    }

    function descends(column) {
        return ['bytes', 'modified', 'rank'].includes(column);
    }

    function frameHead() {
        const label = t('Select all that match');
        const own = {'aria-label': label, title: label, on: {change: () => selectAll(parts.all.checked)}};
        parts.all = input('checkbox', 'resize_lora_all', own);
        parts.heads = COLUMNS.map(([key, text]) => headButton(key, t(text)));
        const row = {class: 'resize-lora-row-grid resize-lora-heads', role: 'group', 'aria-label': t('Sort by')};
        return el('div', {...row, 'data-narrow': label}, parts.all, el('span'), parts.heads);
    }

    function headButton(key, text) {
        const look = `resize-lora-head resize-lora-col-${key}`;
        return button(text, () => sortBy(key), {class: look, 'data-column': key});
    }

    function sortBy(column) {
        const filter = state.filter;
        setFilter({sort: column, down: filter.sort === column ? !filter.down : descends(column)});
        parts.sort.value = column;
    }

    function setFilter(change) {
        Object.assign(state.filter, change);
        state.cursor = 0;
        state.cursorName = null;
        list.box.scrollTop = 0;
        state.shown = [];
        drawLibrary();
    }

    function frameFoot() {
        parts.counts = el('span');
        parts.totals = el('strong', {id: 'resize_lora_totals'});
        parts.leftOut = el('span', {id: 'resize_lora_left_out'});
        parts.more = button(t('Analyse'), () => analyse(unknownNames()), {
            id: 'resize_lora_analyse',
            title: t('Compute how much smaller the selected LoRAs would be'),
        });
        parts.clear = button(t('Select none'), () => selectAll(false), {id: 'resize_lora_none'});
        return el(
            'div',
            {class: 'resize-lora-foot'},
            el('span', {'aria-live': 'polite'}, parts.counts, parts.totals, parts.leftOut),
            parts.more,
            resizeLora.shrink.footButton(),
            parts.clear,
        );
    }

    function drawLibrary() {
        if (!list.box) return;
        const top = Math.floor(list.box.scrollTop / list.height);
        const anchor = top > 0 && state.shown[top];
        state.versions = versionsOf([...state.files.values()]);
        state.shown = matching([...state.files.values()], state.filter, expected);
        drawFamilies();
        drawHeads();
        list.space.style.height = `${state.shown.length * list.height}px`;
        keepScroll(anchor, top);
        setText(list.empty, emptyText());
        show(list.empty, state.shown.length === 0);
        drawRows();
        drawTotals();
        resizeLora.queue.drawActions();
    }

    /* Keeps the cursor on its LoRA, and the rows in view in view, after the list has changed. */
    function keepScroll(anchor, top) {
        const at = name => state.shown.findIndex(file => file.name === name);
        const cursor = state.cursorName == null ? -1 : at(state.cursorName);
        state.cursor = cursor >= 0 ? cursor : Math.max(0, Math.min(state.cursor, state.shown.length - 1));
        const now = anchor ? at(anchor.name) : -1;
        if (now >= 0 && now !== top) list.box.scrollTop += (now - top) * list.height;
    }

    function emptyText() {
        const library = state.library;
        if (!library.complete) {
            return t('Reading {known} of {total} LoRAs…', {known: library.known, total: library.total});
        }
        if (state.files.size) return t('No LoRA matches.');
        return t('No LoRAs found in {folders}.', {folders: library.roots.join(', ') || '?'});
    }

    function drawFamilies() {
        const known = [...new Set([...state.files.values()].map(file => file.family).filter(Boolean))].sort();
        if (known.join() === parts.families) return;
        parts.families = known.join();
        parts.family.replaceChildren(
            el('option', {value: ''}, t('All families')),
            ...known.map(name => el('option', {value: name}, name)),
        );
        parts.family.value = state.filter.family;
    }

    function drawHeads() {
        for (const head of parts.heads) {
            const here = head.dataset.column === state.filter.sort;
            const direction = state.filter.down ? 'down' : 'up';
            head.dataset.order = here ? direction : '';
            head.setAttribute('aria-pressed', String(here));
        }
    }

    function unknownNames() {
        return [...state.selected].filter(name => {
            const file = state.files.get(name);
            return file && !file.problem && !file.predicted && !state.analyses.has(name) && !state.analysing.has(name);
        });
    }

    function drawTotals() {
        if (!parts.counts) return;
        const files = [...state.files.values()];
        const chosen = files.filter(file => state.selected.has(file.name));
        const reading = state.library.complete ? '' : ` · ${emptyText()}`;
        const selected = `${t('{n} selected', {n: count(chosen.length)})}, ${totalText(chosen)}`;
        const leftOut = plural(state.leftOut, '{n} resized file left out', '{n} resized files left out');
        const counts = plural(files.length, '{n} file', '{n} files');
        setText(parts.counts, `${counts} · ${size(sum(files, 'bytes'))}${reading}`);
        setText(parts.totals, chosen.length ? ` · ${selected}` : '');
        setText(parts.leftOut, state.leftOut ? `; ${leftOut}` : '');
        const unknown = unknownNames().length;
        show(parts.more, unknown > 0 && chosen.length > 1);
        setText(parts.more, t('Analyse {n}', {n: count(unknown)}));
        show(parts.clear, chosen.length > 0);
        resizeLora.shrink.drawFootButton();
        drawSelectAll();
    }

    function drawSelectAll() {
        const able = state.shown.filter(file => !file.problem && !file.ours);
        const here = able.filter(file => state.selected.has(file.name)).length;
        parts.all.checked = able.length > 0 && here === able.length;
        parts.all.indeterminate = here > 0 && here < able.length;
    }

    function totalText(chosen) {
        const before = sum(chosen, 'bytes');
        const after = chosen.map(expected);
        if (after.some(bytes => bytes == null)) return size(before);
        const total = after.reduce((all, bytes) => all + bytes, 0);
        return sizes(before, total);
    }

    /* Opens the tab with one LoRA selected. */
    async function openInTab(name) {
        resizeLora.prompt.openTab('tab_resize_lora');
        try {
            await start();
            await readLibrary();
            if (!state.files.has(name)) await readLibrary(true);
        } catch (error) {
            showError(error);
            return;
        }
        if (state.files.has(name)) showInLibrary(name);
        else toast(t('{name} is not in the library.', {name}), {bad: true});
    }

    function showInLibrary(name) {
        if (!state.shown.some(file => file.name === name)) clearFilter();
        state.selected = new Set([name]);
        state.leftOut = 0;
        const at = state.shown.findIndex(file => file.name === name);
        putCursor(Math.max(0, at));
        setCurrent(name);
        drawLibrary();
        bringIntoView(state.cursor);
    }

    function clearFilter() {
        parts.search.value = '';
        parts.family.value = '';
        parts.fits.querySelector('input').checked = false;
        setFilter({text: '', family: '', fits: false});
    }

    resizeLora.library = {drawLibrary, drawTotals, frameLibrary, openInTab};
})((window.resizeLora = window.resizeLora || {}));
