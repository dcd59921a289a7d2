/* Runs over a library: one row each, above the results. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.runRows) return;

    const {saving, size, sizes} = resizeLora.numbers;
    const {plural, t} = resizeLora.words;
    const {messageText} = resizeLora.messages;
    const {watched} = resizeLora.items;
    const {button, el, head, quiet, section, setText, show} = resizeLora.elements;
    const {virtualList} = resizeLora.virtual;
    const {state} = resizeLora.model;
    const {showError} = resizeLora.dialogs;
    const {itemNote, runText, stateText} = resizeLora.runWords;
    const {control, jobOf, readItems, shareOf} = resizeLora.runs;
    const {openRunPage, runTitle} = resizeLora.runPage;
    const {openArchive} = resizeLora.archive;

    const parts = {box: null, list: null, archive: null, more: null, rows: new Map()};

    const ENDED_SHOWN = 2; // ended runs that are shown at first

    /* Action -> the states of a run in which it is possible. */
    const ACTIONS = {
        pause: ['running'],
        continue: ['paused', 'interrupted'],
        stop: ['running', 'paused', 'interrupted'],
        report: ['done', 'stopped'],
    };

    function frameRuns() {
        parts.rows.clear();
        parts.box = section(t('Runs'), 'runs', {hidden: true});
        parts.list = el('div', {class: 'resize-lora-jobs resize-lora-run-rows'});
        parts.archive = button('', openArchive, {id: 'resize_lora_archive', 'data-action': 'archive'});
        parts.more = button(t('Earlier runs'), showAll, {'data-action': 'earlier-runs'});
        parts.box.append(head(t('Runs'), parts.archive), parts.list, parts.more);
        return parts.box;
    }

    function showAll() {
        state.runs.showsAll = true;
        drawRuns();
    }

    function drawRuns() {
        if (!parts.box) return;
        const {list, showsAll} = state.runs;
        const isOpen = run => run.state !== 'done' && run.state !== 'stopped';
        const ended = list.filter(run => !isOpen(run));
        const shown = [...list.filter(isOpen), ...(showsAll ? ended : ended.slice(0, ENDED_SHOWN))];
        show(parts.box, list.length > 0 || state.archive.entries > 0);
        show(parts.more, !showsAll && ended.length > ENDED_SHOWN);
        drawArchiveButton();
        drawRows(shown);
    }

    function drawArchiveButton() {
        const {bytes, entries} = state.archive;
        const words = plural(entries, 'Archive: {n} original, {size}', 'Archive: {n} originals, {size}', {
            size: size(bytes),
        });
        setText(parts.archive, words);
        show(parts.archive, entries > 0);
    }

    function drawRows(shown) {
        const {rows} = parts;
        for (const id of [...rows.keys()].filter(one => !shown.some(run => run.run === one))) {
            rows.get(id).remove();
            rows.delete(id);
        }
        shown.forEach((run, i) => {
            if (!rows.has(run.run)) rows.set(run.run, makeRow(run));
            const row = rows.get(run.run);
            if (parts.list.children[i] !== row) parts.list.insertBefore(row, parts.list.children[i] || null);
            fillRow(row, run);
        });
    }

    function makeRow(run) {
        const id = run.run;
        const range = {role: 'progressbar', 'aria-valuemin': '0', 'aria-valuemax': '100', 'aria-label': runTitle(run)};
        const list = virtualList(t('Files of the run'), makeFile, fillFile);
        const row = el('div', {class: 'resize-lora-job resize-lora-run', 'data-key': id});
        row.list = list;
        row.parts = {
            title: el('strong', {class: 'resize-lora-cut'}),
            text: quiet('', {role: 'status'}),
            fill: el('span', {class: 'resize-lora-fill'}),
            buttons: actionButtons(id),
            unfold: button('', () => unfold(id), {'data-action': 'unfold'}),
        };
        row.bar = el('span', {class: 'resize-lora-progress', ...range}, row.parts.fill);
        const tools = el('span', {class: 'resize-lora-result-tools'}, row.parts.buttons, row.parts.unfold);
        row.append(row.parts.title, row.parts.text, tools, row.bar, list.box);
        return row;
    }

    function actionButtons(id) {
        const words = {pause: t('Pause'), continue: t('Go on'), stop: t('Stop'), report: t('Report')};
        const work = action => (action === 'report' ? openRunPage(id) : control({run: id}, action));
        return Object.keys(ACTIONS).map(action =>
            button(words[action], () => work(action), {
                'data-action': action,
                'aria-label': `${words[action]}: ${runTitle(state.runs.list.find(run => run.run === id))}`,
            }),
        );
    }

    function fillRow(row, run) {
        const share = run.state === 'done' ? 1 : shareOf(run);
        const isUnfolded = state.runs.open.has(run.run);
        row.dataset.state = run.state;
        setText(row.parts.title, runTitle(run));
        setText(row.parts.text, runText(run, jobOf(run)));
        for (const one of row.parts.buttons) show(one, ACTIONS[one.dataset.action].includes(run.state));
        row.parts.fill.style.width = `${100 * share}%`;
        row.bar.setAttribute('aria-valuenow', String(Math.floor(100 * share)));
        show(row.bar, run.state !== 'done' && run.state !== 'stopped');
        setText(row.parts.unfold, isUnfolded ? t('Hide files') : t('Files'));
        row.parts.unfold.setAttribute('aria-expanded', String(isUnfolded));
        show(row.list.box, isUnfolded);
        if (isUnfolded) row.list.set(watched(state.runs.items.get(run.run) || []));
    }

    function unfold(id) {
        const {open} = state.runs;
        if (!open.delete(id)) {
            open.add(id);
            readItems(id).catch(showError);
        }
        drawRuns();
    }

    function makeFile() {
        const row = el('div', {class: 'resize-lora-run-file'});
        row.parts = {
            name: el('span', {class: 'resize-lora-cut'}),
            note: quiet('', {class: 'resize-lora-quiet resize-lora-cut'}),
            sizes: el('span', {class: 'resize-lora-run-sizes'}),
            saved: el('span', {class: 'resize-lora-run-saved'}),
        };
        row.append(...Object.values(row.parts));
        return row;
    }

    function fillFile(row, item) {
        const isMade = item.bytes_after != null && item.state !== 'left';
        row.dataset.key = item.name;
        row.dataset.state = item.state;
        row.title = messageText(item.message);
        setText(row.parts.name, item.name);
        setText(row.parts.note, itemNote(item) || stateText(item.state));
        setText(row.parts.sizes, isMade ? sizes(item.bytes_before, item.bytes_after) : size(item.bytes_before));
        setText(row.parts.saved, isMade ? saving(item.bytes_before, item.bytes_after) : '');
    }

    resizeLora.runRows = {drawRuns, frameRuns};
})((window.resizeLora = window.resizeLora || {}));
