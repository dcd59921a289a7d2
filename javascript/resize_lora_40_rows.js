/* The rows of the library: only those in view are in the page. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.rows) return;

    const {size} = resizeLora.numbers;
    const {t} = resizeLora.words;
    const {messageText} = resizeLora.messages;
    const {el, later, setText, show} = resizeLora.elements;
    const {state} = resizeLora.model;
    const {expected} = resizeLora.choice;
    const {call} = resizeLora.wire;
    const {setCurrent} = resizeLora.analysis;

    const list = {rows: [], height: 44, box: null, space: null, empty: null};

    function frameList() {
        list.space = el('div', {class: 'resize-lora-space', role: 'presentation'});
        list.empty = el('p', {class: 'resize-lora-quiet resize-lora-empty'});
        list.box = el(
            'div',
            {
                class: 'resize-lora-list',
                id: 'resize_lora_list',
                role: 'listbox',
                tabIndex: 0,
                'aria-multiselectable': 'true',
                'aria-label': t('LoRAs'),
                on: {scroll: () => requestAnimationFrame(drawRows), keydown: listKey, click: listClick},
            },
            list.space,
            list.empty,
        );
        new ResizeObserver(() => {
            measureRows();
            drawRows();
        }).observe(list.box);
        return list.box;
    }

    function measureRows() {
        const height = parseFloat(getComputedStyle(list.box).getPropertyValue('--resize-lora-row')) || 44;
        if (height === list.height) return;
        list.height = height;
        list.space.style.height = `${state.shown.length * height}px`;
    }

    function putCursor(index) {
        state.cursor = index;
        state.cursorName = state.shown[index] ? state.shown[index].name : null;
    }

    /* Only the rows in view are in the page; they are reused while scrolling. */
    function drawRows() {
        const {box, height, rows} = list;
        if (!box.clientHeight) return;
        const first = Math.max(0, Math.floor(box.scrollTop / height) - 3);
        const needed = Math.max(0, Math.min(state.shown.length - first, Math.ceil(box.clientHeight / height) + 7));
        while (rows.length < needed) rows.push(list.space.appendChild(makeRow()));
        rows.forEach((row, i) => {
            show(row, i < needed);
            if (i < needed) fillRow(row, state.shown[first + i], first + i);
        });
        loadPreviews(rows.slice(0, needed));
        markCursor();
    }

    function makeRow() {
        const cell = name => el('span', {class: `resize-lora-col-${name}`});
        const row = el('div', {class: 'resize-lora-row resize-lora-row-grid', role: 'option'});
        row.parts = {
            tick: el('span', {class: 'resize-lora-tick', 'aria-hidden': 'true'}),
            preview: el('img', {class: 'resize-lora-preview', alt: ''}),
            title: el('span', {class: 'resize-lora-title'}),
            folder: el('span', {class: 'resize-lora-quiet resize-lora-folder'}),
            made: el('span', {class: 'resize-lora-made'}),
            family: cell('family'),
            kind: cell('kind'),
            rank: cell('rank'),
            dtype: cell('dtype'),
            bytes: cell('bytes'),
            after: cell('after'),
        };
        const {tick, preview, title, folder, made, ...cells} = row.parts;
        const second = el('span', {class: 'resize-lora-second-line'}, made, folder);
        row.append(tick, preview, el('span', {class: 'resize-lora-col-name'}, title, second), ...Object.values(cells));
        return row;
    }

    function fillRow(row, file, index) {
        const cells = row.parts;
        const after = expected(file);
        markRow(row, file, index);
        setText(cells.title, file.name);
        setText(cells.folder, folderText(file));
        setText(cells.made, versionText(file));
        setText(cells.family, file.family || '');
        setText(cells.kind, file.read === false ? '…' : file.kind || '');
        setText(cells.rank, file.rank == null ? '' : `r${file.rank}`);
        setText(cells.dtype, (file.dtype || '').toLowerCase());
        setText(cells.bytes, size(file.bytes));
        setText(cells.after, afterText(file, after));
        cells.after.classList.toggle('resize-lora-quiet', after == null);
        showPreview(cells.preview, state.previews.get(file.name) || '');
    }

    function markRow(row, file, index) {
        row.dataset.name = file.name;
        row.id = `resize_lora_row_${index}`;
        row.style.transform = `translateY(${index * list.height}px)`;
        row.setAttribute('aria-selected', String(state.selected.has(file.name)));
        row.setAttribute('aria-posinset', String(index + 1));
        row.setAttribute('aria-setsize', String(state.shown.length));
        row.classList.toggle('resize-lora-current', file.name === state.current);
        row.classList.toggle('resize-lora-problem', Boolean(file.problem));
        row.title = messageText(file.problem) || (state.versions.get(file.name) || []).map(one => one.name).join(', ');
    }

    function showPreview(image, address) {
        if (image.getAttribute('src') === address) return;
        if (address) image.src = address;
        else image.removeAttribute('src');
    }

    function folderText(file) {
        const made = file.ours ? t('made from {name}', {name: file.ours.source}) : '';
        return [file.folder, made].filter(Boolean).join(' · ');
    }

    function versionText(file) {
        const versions = state.versions.get(file.name) || [];
        if (!versions.length) return '';
        const least = size(versions[0].bytes);
        return versions.length === 1
            ? t('smaller: {size}', {size: least})
            : t('{n} smaller, {size}', {n: versions.length, size: least});
    }

    function afterText(file, after) {
        if (file.problem) return t('not resizable');
        if (after != null) return `→ ${size(after)}`;
        if (state.analysing.has(file.name)) return t('analysing…');
        return file.predicted || state.analyses.has(file.name) ? '–' : t('not analysed');
    }

    const loadPreviews = later(async rows => {
        const names = rows
            .filter(row => !row.hidden)
            .map(row => row.dataset.name)
            .filter(name => {
                const file = state.files.get(name);
                return file && file.preview && !state.previews.has(name) && !state.previewsAsked.has(name);
            })
            .slice(0, 48);
        if (!names.length) return;
        names.forEach(name => state.previewsAsked.add(name));
        try {
            const answer = await call('previews', {names});
            Object.entries(answer.previews).forEach(([name, picture]) => {
                if (picture) state.previews.set(name, picture);
            });
            (answer.pending || []).forEach(name => state.previewsAsked.delete(name));
            drawRows();
        } catch (error) {
            console.warn('Resize LoRA: no previews', error);
        }
    }, 150);

    function listClick(event) {
        const row = event.target.closest('.resize-lora-row');
        if (!row) return;
        const index = state.shown.findIndex(file => file.name === row.dataset.name);
        if (index < 0) return;
        if (event.shiftKey) selectRange(state.cursor, index);
        else if (event.ctrlKey || event.metaKey || event.target.closest('.resize-lora-tick')) toggle(index);
        else selectOnly(index);
        putCursor(index);
        setCurrent(row.dataset.name);
        resizeLora.library.drawLibrary();
    }

    function toggle(index) {
        const {name} = state.shown[index];
        if (!state.selected.delete(name)) state.selected.add(name);
        state.leftOut = 0;
    }

    function selectOnly(index) {
        state.selected = new Set([state.shown[index].name]);
        state.leftOut = 0;
    }

    function selectRange(from, to) {
        for (let i = Math.min(from, to); i <= Math.max(from, to); i++) state.selected.add(state.shown[i].name);
        state.leftOut = 0;
    }

    /* Resized files are left out, so that they are not resized again by accident. */
    function selectAll(on) {
        const able = on ? state.shown.filter(file => !file.problem) : [];
        const chosen = able.filter(file => !file.ours);
        state.selected = new Set(chosen.map(file => file.name));
        state.leftOut = able.length - chosen.length;
        if (chosen.length && !state.current) setCurrent(chosen[0].name);
        resizeLora.library.drawLibrary();
    }

    function listKey(event) {
        const page = Math.max(1, Math.floor(list.box.clientHeight / list.height) - 1);
        const last = state.shown.length - 1;
        const steps = {ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -last, End: last};
        if (last < 0) return;
        if (event.key in steps) moveCursor(steps[event.key], event.shiftKey, last);
        else if (event.key === ' ') toggle(state.cursor);
        else if (event.key === 'Enter' && !event.ctrlKey) selectOnly(state.cursor);
        else if (event.key === 'a' && (event.ctrlKey || event.metaKey)) selectAll(true);
        else return;
        event.preventDefault();
        if (event.key !== 'a') setCurrent(state.shown[state.cursor].name);
        resizeLora.library.drawLibrary();
    }

    function moveCursor(step, extend, last) {
        const before = state.cursor;
        putCursor(Math.min(last, Math.max(0, before + step)));
        if (extend) selectRange(before, state.cursor);
        bringIntoView(state.cursor);
    }

    function bringIntoView(index) {
        const top = index * list.height;
        const {box} = list;
        if (top < box.scrollTop) {
            box.scrollTop = top;
        } else if (top + list.height > box.scrollTop + box.clientHeight) {
            box.scrollTop = top + list.height - box.clientHeight;
        }
        drawRows();
    }

    function markCursor() {
        const id = `resize_lora_row_${state.cursor}`;
        list.rows.forEach(row => row.classList.toggle('resize-lora-cursor', !row.hidden && row.id === id));
        if (state.shown.length) list.box.setAttribute('aria-activedescendant', id);
        else list.box.removeAttribute('aria-activedescendant');
    }

    resizeLora.rows = {bringIntoView, drawRows, frameList, list, putCursor, selectAll};
})((window.resizeLora = window.resizeLora || {}));
