/* The rows of the library: only those in view are in the page. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.rows) return;

    const {saving, size} = resizeLora.numbers;
    const {plural, t} = resizeLora.words;
    const {messageText} = resizeLora.messages;
    const {gainOf} = resizeLora.filter;
    const {el, later, nameText, setName, setText, show} = resizeLora.elements;
    const {state} = resizeLora.model;
    const {expected, isEstimated} = resizeLora.choice;
    const {call} = resizeLora.wire;

    const list = {rows: [], height: 44, box: null, space: null, empty: null};

    function frameList() {
        list.space = el('div', {class: 'resize-lora-space', role: 'presentation'});
        list.empty = el('p', {class: 'resize-lora-quiet resize-lora-empty', role: 'presentation'});
        list.box = el(
            'div',
            {
                class: 'resize-lora-list',
                id: 'resize_lora_list',
                role: 'tree',
                tabIndex: 0,
                'aria-multiselectable': 'true',
                'aria-label': t('LoRAs'),
                on: {scroll: () => requestAnimationFrame(drawRows), ...resizeLora.picking.LISTENERS},
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
        list.space.style.height = `${state.rows.length * height}px`;
    }

    function putCursor(index) {
        state.cursor = index;
        state.cursorKey = state.rows[index] ? state.rows[index].key : null;
    }

    /* Only the rows in view are in the page; they are reused while scrolling. */
    function drawRows() {
        const {box, height, rows} = list;
        if (!box.clientHeight) return;
        const first = Math.max(0, Math.floor(box.scrollTop / height) - 3);
        const needed = Math.max(0, Math.min(state.rows.length - first, Math.ceil(box.clientHeight / height) + 7));
        while (rows.length < needed) rows.push(list.space.appendChild(makeRow()));
        rows.forEach((row, i) => {
            show(row, i < needed);
            if (i < needed) fillRow(row, state.rows[first + i], first + i);
        });
        loadPreviews(rows.slice(0, needed));
        markCursor();
    }

    function makeRow() {
        const cell = name => el('span', {class: `resize-lora-col-${name}`});
        const row = el('div', {class: 'resize-lora-row resize-lora-row-grid', role: 'treeitem'});
        row.parts = {
            tick: el('span', {class: 'resize-lora-tick', 'aria-hidden': 'true'}),
            preview: el('img', {class: 'resize-lora-preview', alt: ''}),
            title: nameText('', {class: 'resize-lora-title resize-lora-name'}),
            fold: el('span', {class: 'resize-lora-fold', 'data-action': 'unfold'}),
            badge: el('span', {class: 'resize-lora-badge'}),
            folder: el('span', {class: 'resize-lora-quiet resize-lora-folder'}),
            family: cell('family'),
            kind: cell('kind'),
            rank: cell('rank'),
            bytes: cell('bytes'),
            after: cell('after'),
            gain: cell('gain'),
        };
        const {tick, preview, title, fold, badge, folder, ...cells} = row.parts;
        const second = el('span', {class: 'resize-lora-second-line'}, fold, badge, folder);
        row.append(tick, preview, el('span', {class: 'resize-lora-col-name'}, title, second), ...Object.values(cells));
        return row;
    }

    function fillRow(row, entry, index) {
        const {file, other} = entry;
        const cells = row.parts;
        const after = other ? null : expected(file);
        markRow(row, entry, index);
        setName(cells.title, file.name);
        setText(cells.folder, folderText(entry));
        setText(cells.fold, foldText(entry));
        setText(cells.badge, badgeText(entry));
        cells.fold.title = plural(entry.versions.length, '{n} version', '{n} versions');
        setText(cells.family, other ? '' : file.family || '');
        setText(cells.kind, other ? '' : kindText(file));
        setText(cells.rank, other || file.rank == null ? '' : `r${file.rank}`);
        setText(cells.bytes, size(other ? other.bytes : file.bytes));
        setText(cells.after, other ? '' : afterText(file, after));
        setText(cells.gain, other ? '' : gainText(file));
        cells.after.classList.toggle('resize-lora-quiet', after == null);
        showPreview(cells.preview, other ? '' : state.previews.get(file.name) || '');
    }

    function markRow(row, entry, index) {
        const {key, file, depth, versions, isUnfolded, other} = entry;
        const {name} = file;
        Object.assign(row.dataset, {key, name, depth, other: other ? 'true' : ''});
        row.id = `resize_lora_row_${index}`;
        row.style.transform = `translateY(${index * list.height}px)`;
        row.setAttribute('aria-selected', String(!other && state.selected.has(name)));
        row.setAttribute('aria-level', String(depth + 1));
        row.setAttribute('aria-posinset', String(index + 1));
        row.setAttribute('aria-setsize', String(state.rows.length));
        if (versions.length) row.setAttribute('aria-expanded', String(isUnfolded));
        else row.removeAttribute('aria-expanded');
        row.classList.toggle('resize-lora-current', !other && name === state.current);
        row.classList.toggle('resize-lora-problem', Boolean(file.problem) || Boolean(other));
        row.title = rowTitle(entry);
    }

    function rowTitle({file, versions, other}) {
        if (other) return otherText(file);
        return messageText(file.problem) || versions.map(one => `${one.name} ${size(one.bytes)}`).join('\n');
    }

    /* What the host does with two files of one name. */
    function otherText(file) {
        const folder = file.folder || state.library.roots[0] || '?';
        return t('Not used: the WebUI uses the file of this name in {folder}.', {folder});
    }

    function kindText(file) {
        return file.read === false ? '…' : file.kind || '';
    }

    function showPreview(image, address) {
        if (image.getAttribute('src') === address) return;
        if (address) image.src = address;
        else image.removeAttribute('src');
    }

    function folderText({file, depth, other}) {
        if (other) return [other.folder, otherText(file)].filter(Boolean).join(' · ');
        const made = file.ours && !depth ? t('made from {name}', {name: file.ours.source}) : '';
        const archived = file.archived ? t('original in the archive') : '';
        const used = (file.same_name || []).length ? t('used by the WebUI') : '';
        return [file.folder, made, archived, used].filter(Boolean).join(' · ');
    }

    function foldText({versions, isUnfolded}) {
        if (!versions.length) return '';
        return `${isUnfolded ? '▾' : '▸'} ${versions.length}`;
    }

    /* What the smallest version of an original saves, or what a version saves. */
    function badgeText({file, depth, versions, other}) {
        if (other) return '';
        if (versions.length) return saving(file.bytes, versions[0].bytes);
        const source = depth && state.files.get(file.ours.source);
        return source ? saving(source.bytes, file.bytes) : '';
    }

    function afterText(file, after) {
        if (file.problem) return t('not resizable');
        if (after != null) return `${isEstimated(file) ? '≈' : '→'} ${size(after)}`;
        if (state.analysing.has(file.name)) return t('analysing…');
        return file.predicted || state.analyses.has(file.name) ? '–' : t('not analysed');
    }

    function gainText(file) {
        const gain = file.problem ? null : gainOf(file, expected);
        return gain == null ? '' : `${isEstimated(file) ? '≈ ' : ''}${size(gain)}`;
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
        if (state.rows.length) list.box.setAttribute('aria-activedescendant', id);
        else list.box.removeAttribute('aria-activedescendant');
    }

    resizeLora.rows = {bringIntoView, drawRows, frameList, list, measureRows, putCursor};
})((window.resizeLora = window.resizeLora || {}));
