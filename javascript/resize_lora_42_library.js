/* The library: search, filters, head and totals. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.library) return;

    const {count, size, sizes, sum} = resizeLora.numbers;
    const {plural, t} = resizeLora.words;
    const {FILTER, familiesOf, isFiltering, matching, rowsOf} = resizeLora.filter;
    const {totals} = resizeLora.totals;
    const {button, el, input, section, setText, show} = resizeLora.elements;
    const {state} = resizeLora.model;
    const {expected, selectedFiles} = resizeLora.choice;
    const {showError, toast} = resizeLora.dialogs;
    const {readLibrary, start} = resizeLora.session;
    const {analyse, setCurrent} = resizeLora.analysis;
    const {drawRows, frameList, list} = resizeLora.rows;
    const {reveal, selectAll} = resizeLora.picking;
    const {drawFilter, frameFilter, keepFilter, SORTS} = resizeLora.filterBar;

    const parts = {all: null, heads: null, counts: null, totals: null, leftOut: null, more: null, clear: null};

    const COLUMNS = [
        ['name', 'Name'],
        ['family', 'Family'],
        ['kind', 'Type'],
        ['rank', 'Rank'],
        ['bytes', 'Size'],
        ['after', 'After'],
        ['gain', 'Frees'],
    ];

    function frameLibrary() {
        const box = section(t('Library'), 'library');
        box.append(...frameFilter([...COLUMNS, ...SORTS]), frameHead(), frameList(), frameFoot());
        return box;
    }

    function descends(column) {
        return ['bytes', 'gain', 'modified', 'rank'].includes(column);
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
        return button(text, () => sortBy(key), {class: look, 'data-column': key, 'data-action': 'sort'});
    }

    function sortBy(column) {
        const filter = state.filter;
        setFilter({sort: column, down: filter.sort === column ? !filter.down : descends(column)});
    }

    /* Changes what is shown; another sort begins in its usual direction. */
    function setFilter(change) {
        if (change.sort && !('down' in change)) change.down = descends(change.sort);
        Object.assign(state.filter, change);
        keepFilter();
        state.cursor = 0;
        state.cursorKey = null;
        list.box.scrollTop = 0;
        state.rows = [];
        drawLibrary();
    }

    function clearFilter() {
        const {sort, down} = state.filter;
        setFilter({...FILTER, sort, down});
    }

    function frameFoot() {
        parts.counts = el('span');
        parts.totals = el('strong', {id: 'resize_lora_totals'});
        parts.leftOut = el('span', {id: 'resize_lora_left_out'});
        parts.more = button(t('Analyse'), () => analyse(unknownNames()), {
            id: 'resize_lora_analyse',
            'data-action': 'analyse',
            title: t('Compute how much smaller the selected LoRAs would be'),
        });
        parts.clear = button(t('Select none'), () => selectAll(false), {
            id: 'resize_lora_none',
            'data-action': 'select-none',
        });
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
        const anchor = top > 0 && state.rows[top];
        const files = [...state.files.values()];
        state.families = familiesOf(files);
        const view = {after: expected, families: state.families, unfolded: state.unfolded};
        state.shown = matching(files, state.filter, view);
        state.rows = rowsOf(files, state.filter, view);
        drawFilter();
        drawHeads();
        list.space.style.height = `${state.rows.length * list.height}px`;
        keepScroll(anchor, top);
        setText(list.empty, emptyText());
        show(list.empty, state.rows.length === 0);
        drawRows();
        drawTotals();
        resizeLora.queue.drawActions();
        resizeLora.target.drawTarget();
        resizeLora.badges.drawBadges();
    }

    /* Keeps the cursor on its row, and the rows in view in view, after the list has changed. */
    function keepScroll(anchor, top) {
        const at = key => state.rows.findIndex(entry => entry.key === key);
        const cursor = state.cursorKey == null ? -1 : at(state.cursorKey);
        state.cursor = cursor >= 0 ? cursor : Math.max(0, Math.min(state.cursor, state.rows.length - 1));
        const now = anchor ? at(anchor.key) : -1;
        if (now >= 0 && now !== top) list.box.scrollTop += (now - top) * list.height;
    }

    function emptyText() {
        const library = state.library;
        if (!library.complete) {
            return t('Reading LoRAs: {known} of {total}…', {known: library.known, total: library.total});
        }
        if (state.files.size) return isFiltering(state.filter) ? t('No LoRA matches the filter.') : '';
        return t('No LoRAs found in {folders}.', {folders: library.roots.join(', ') || '?'});
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
        const chosen = selectedFiles();
        const reading = state.library.complete ? '' : ` · ${emptyText()}`;
        const leftOut = plural(state.leftOut, '{n} resized file left out', '{n} resized files left out');
        const counts = plural(files.length, '{n} file', '{n} files');
        setText(parts.counts, `${counts} · ${size(sum(files, 'bytes'))}${reading}`);
        setText(parts.totals, chosen.length ? ` · ${totalText(chosen)}` : '');
        setText(parts.leftOut, state.leftOut ? `; ${leftOut}` : '');
        const unknown = unknownNames().length;
        show(parts.more, unknown > 0 && chosen.length > 1);
        setText(parts.more, t('Analyse {n}', {n: count(unknown)}));
        show(parts.clear, chosen.length > 0);
        resizeLora.shrink.drawFootButton();
        drawSelectAll();
    }

    /* What resizing the selection would free. Files whose result is not known are only counted. */
    function totalText(chosen) {
        const all = totals(chosen, expected);
        const about = all.isEstimated ? '≈ ' : '';
        const texts = [t('{n} selected', {n: count(chosen.length)})];
        if (all.known) {
            texts.push(sizes(all.before, all.after), t('frees {size}', {size: about + size(all.before - all.after)}));
        }
        if (all.unknown && all.known) texts.push(t('{n} unknown', {n: count(all.unknown)}));
        return (all.known ? texts : [...texts, size(sum(chosen, 'bytes'))]).join(', ');
    }

    function drawSelectAll() {
        const able = state.shown.filter(file => !file.problem && !file.ours);
        const here = able.filter(file => state.selected.has(file.name)).length;
        parts.all.checked = able.length > 0 && here === able.length;
        parts.all.indeterminate = here > 0 && here < able.length;
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
        state.selected = new Set([name]);
        state.leftOut = 0;
        if (!reveal(name)) {
            clearFilter();
            reveal(name);
        }
        setCurrent(name);
        drawLibrary();
    }

    resizeLora.library = {clearFilter, drawLibrary, drawTotals, frameLibrary, openInTab, setFilter};
})((window.resizeLora = window.resizeLora || {}));
