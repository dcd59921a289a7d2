/* The archive of originals: what is in it, *Restore* and *Purge*. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.archive) return;

    const {size, sum} = resizeLora.numbers;
    const {plural, t} = resizeLora.words;
    const {messageText} = resizeLora.messages;
    const {button, el, input, quiet, quietLine, setText, show} = resizeLora.elements;
    const {virtualList} = resizeLora.virtual;
    const {state} = resizeLora.model;
    const {call, callWithRetry} = resizeLora.wire;
    const {dialog, showError, toast} = resizeLora.dialogs;
    const {confirmButton} = resizeLora.confirm;
    const {momentText, recipeText} = resizeLora.runWords;
    const {readRuns, restoreOriginals} = resizeLora.runs;

    const USUAL_DAYS = '30';

    const parts = {box: null, body: null, open: new Set()};

    async function openArchive() {
        try {
            const answer = await callWithRetry('archive');
            parts.open.clear();
            parts.body = el('div', {class: 'resize-lora-archive'});
            parts.box = dialog(t('Archive of originals'), parts.body);
            parts.box.addEventListener('close', () => {
                parts.box = null;
            });
            drawArchive(answer);
        } catch (error) {
            showError(error);
        }
    }

    /* Reads how much the archive holds, and draws its dialog where it is open. */
    async function readArchive() {
        drawArchive(await callWithRetry('archive'));
    }

    function drawArchive(answer) {
        state.archive = {bytes: answer.bytes, entries: answer.entries.length};
        resizeLora.runRows.drawRuns();
        if (!parts.box) return;
        const {entries, folder, bytes, problem} = answer;
        const values = {size: size(bytes)};
        const words = plural(entries.length, '{n} original, {size}', '{n} originals, {size}', values);
        parts.body.replaceChildren(
            el('p', null, el('strong', null, words), folder ? quiet(` · ${folder}`) : ''),
            problem ? el('p', {class: 'resize-lora-fault', role: 'alert'}, messageText(problem)) : '',
            ...(entries.length ? [purgeTools(), ...groupsOf(entries)] : [quietLine(t('The archive is empty.'))]),
        );
    }

    /* The entries of each run, the newest run first; those of the command line have no run. */
    function groupsOf(entries) {
        const groups = new Map();
        for (const entry of entries) {
            if (!groups.has(entry.run)) groups.set(entry.run, []);
            groups.get(entry.run).push(entry);
        }
        return [...groups].reverse().map(([run, all]) => groupBox(run, all));
    }

    function groupBox(run, entries) {
        const known = state.runs.list.find(one => one.run === run);
        const title = known
            ? `${recipeText(known.recipe)} · ${momentText(known.began)}`
            : t('Earlier or by another program');
        const values = {size: size(sum(entries, 'bytes'))};
        const text = plural(entries.length, '{n} original, {size}', '{n} originals, {size}', values);
        const list = virtualList(t('Originals'), makeRow, fillRow);
        const unfold = button('', () => toggle(), {'data-action': 'unfold'});
        const toggle = on => {
            const isOpen = on ?? !parts.open.has(run);
            if (isOpen) parts.open.add(run);
            else parts.open.delete(run);
            setText(unfold, isOpen ? t('Hide files') : t('Files'));
            unfold.setAttribute('aria-expanded', String(isOpen));
            show(list.box, isOpen);
            if (isOpen) list.set(entries);
        };
        toggle(parts.open.has(run));
        const tools = el('span', {class: 'resize-lora-result-tools'}, groupTools(run, entries), unfold);
        const heading = el('span', {class: 'resize-lora-archive-title'}, el('strong', null, title), quiet(text));
        return el('div', {class: 'resize-lora-archive-run', 'data-key': run}, heading, tools, list.box);
    }

    function groupTools(run, entries) {
        const what = run ? {run} : {entries: entries.map(entry => entry.entry)};
        return [
            confirmButton(t('Restore'), {
                ask: () => plural(entries.length, 'Restore {n} original?', 'Restore {n} originals?'),
                sure: t('Restore'),
                work: () => restoreOriginals(what),
                'data-action': 'restore-run',
            }),
            purgeButton(t('Delete…'), () => what, {'data-action': 'purge-run'}),
        ];
    }

    function purgeTools() {
        const own = {min: '0', max: '100000', step: '1', value: USUAL_DAYS};
        const days = input('number', 'resize_lora_days', {...own, 'aria-label': t('Days')});
        const older = () => ({older_days: days.validity.valid ? days.valueAsNumber : Number(USUAL_DAYS)});
        return el(
            'div',
            {class: 'resize-lora-tools'},
            confirmButton(t('Restore all'), {
                ask: () => t('Restore all originals?'),
                sure: t('Restore'),
                work: () => restoreOriginals({all: true}),
                'data-action': 'restore-all',
            }),
            purgeButton(t('Delete all…'), () => ({all: true}), {'data-action': 'purge-all'}),
            el(
                'span',
                {class: 'resize-lora-older'},
                purgeButton(t('Delete those older than'), older, {'data-action': 'purge-older'}),
                days,
                quiet(t('days')),
            ),
        );
    }

    /* A button that counts what would be deleted, shows it, and deletes it once it is confirmed. */
    function purgeButton(text, what, attributes) {
        const ask = async () => {
            try {
                const {files, bytes} = await call('purge', what());
                if (files) return purgeQuestion(files, bytes);
                toast(t('The archive has no such originals.'));
            } catch (error) {
                showError(error);
            }
            return null;
        };
        const work = () => purge(what());
        return confirmButton(text, {ask, sure: t('Delete'), work, danger: true, ...attributes});
    }

    function purgeQuestion(files, bytes) {
        return plural(
            files,
            'Permanently delete {n} original, {size}? It cannot be restored then.',
            'Permanently delete {n} originals, {size}? They cannot be restored then.',
            {size: size(bytes)},
        );
    }

    async function purge(what) {
        try {
            const {files, bytes} = await call('purge', {...what, confirm: true});
            const values = {size: size(bytes)};
            toast(plural(files, '{n} original deleted, {size} freed', '{n} originals deleted, {size} freed', values));
            await readArchive();
            await readRuns();
        } catch (error) {
            showError(error);
        }
    }

    function makeRow() {
        const row = el('div', {class: 'resize-lora-run-file'});
        row.parts = {
            name: el('span', {class: 'resize-lora-cut'}),
            note: quiet('', {class: 'resize-lora-quiet resize-lora-cut'}),
            size: el('span', {class: 'resize-lora-run-sizes'}),
            restore: button(t('Restore'), () => restoreOriginals({entries: [row.entry.entry]}), {
                'data-action': 'restore',
            }),
        };
        row.append(...Object.values(row.parts));
        return row;
    }

    function fillRow(row, entry) {
        row.entry = entry;
        row.dataset.key = entry.name;
        const missing = entry.there ? '' : t('The original is missing.');
        setText(row.parts.name, entry.name);
        setText(row.parts.note, [entry.folder, missing || momentText(entry.replaced)].filter(Boolean).join(' · '));
        setText(row.parts.size, size(entry.bytes));
        row.parts.restore.disabled = !entry.there;
        row.parts.restore.setAttribute('aria-label', `${t('Restore')}: ${entry.name}`);
    }

    resizeLora.archive = {openArchive, readArchive};
})((window.resizeLora = window.resizeLora || {}));
