/* Results: what was made, with undo. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.results) return;

    const {percent, saving, sizes, sum} = resizeLora.numbers;
    const {plural, t} = resizeLora.words;
    const {messageText} = resizeLora.messages;
    const {effectHint, effectText} = resizeLora.effect;
    const {csvText} = resizeLora.text;
    const {byBatch} = resizeLora.totals;
    const {button, download, el, head, nameText, quiet, quietLine, section} = resizeLora.elements;
    const {keep} = resizeLora.storage;
    const {state} = resizeLora.model;
    const {can, changedOptions} = resizeLora.choice;
    const {call} = resizeLora.wire;
    const {menuItem, showMenu} = resizeLora.menu;
    const {showError, toast} = resizeLora.dialogs;
    const {readLibrary} = resizeLora.session;

    const parts = {results: null};

    const CSV_COLUMNS = [
        'name',
        'output',
        'folder',
        'bytes_before',
        'bytes_after',
        'saved',
        'retention',
        'effect',
        'recipe',
        'state',
    ];

    /* A result in a job is as old as the end of the job; the answer of `results` is newer. */
    function addResult(result) {
        if (state.results.some(one => one.result === result.result)) return;
        state.results.push(result);
        state.redraw.isDue = true;
        keep('resized', true);
        drawResults();
    }

    function setResults(answer) {
        state.results = answer.results;
        state.moreResults = Boolean(answer.more);
        state.trash = answer.trash;
        drawResults();
        resizeLora.redraw.refreshStale();
    }

    function frameResults() {
        parts.results = section(t('Results'), 'results');
        return parts.results;
    }

    function drawResults() {
        if (!parts.results) return;
        const all = [...state.results].reverse();
        const shown = all.slice(0, state.shownResults);
        const isMore = all.length > shown.length || state.moreResults;
        const empty = quietLine(t('Resized files are listed here. Each can be undone.'));
        const earlier = {id: 'resize_lora_earlier', 'data-action': 'earlier'};
        const tools = [
            all.length ? button(t('Save as CSV'), saveCsv, {id: 'resize_lora_csv', 'data-action': 'csv'}) : [],
            state.trash.items ? resizeLora.trash.trashButton() : [],
        ];
        parts.results.replaceChildren(
            head(t('Results'), tools),
            ...(all.length ? resultGroups(shown) : [empty]),
            ...(isMore ? [button(t('Show earlier results'), showEarlier, earlier)] : []),
        );
        resizeLora.target.drawIntro();
    }

    /* Results of one call are a group with a head; those between are one list. */
    function resultGroups(shown) {
        const made = [];
        let alone = [];
        for (const {key, members} of byBatch(shown)) {
            if (members.length === 1) {
                alone.push(members[0]);
                continue;
            }
            if (alone.length) made.push(resultList(alone));
            alone = [];
            made.push(runGroup(key, members, !made.length));
        }
        if (alone.length) made.push(resultList(alone));
        return made;
    }

    function resultList(results, attributes) {
        return el('div', {role: 'list', ...attributes}, results.map(resultRow));
    }

    const MOST_UNFOLDED = 12; // files of an older run that are shown at once

    function runGroup(key, members, isFirst) {
        const chosen = state.foldedRuns.get(key);
        const isFolded = chosen === undefined ? !isFirst && members.length > MOST_UNFOLDED : chosen;
        const list = resultList(members, {hidden: isFolded});
        return el('div', {class: 'resize-lora-run', 'data-key': key}, runHead(key, members, isFolded), list);
    }

    function runHead(key, members, isFolded) {
        const there = members.filter(result => result.state === 'there');
        const fold = () => {
            state.foldedRuns.set(key, !isFolded);
            drawResults();
        };
        const words = plural(members.length, '{n} file', '{n} files');
        const own = {'data-action': 'fold', 'aria-expanded': String(!isFolded), class: 'resize-lora-fold-button'};
        const before = sum(members, 'bytes_before');
        const after = sum(members, 'bytes_after');
        const undoRun = () => resizeLora.undo.undoAll(there.map(result => result.result));
        return el(
            'div',
            {class: 'resize-lora-run-head'},
            button(`${isFolded ? '▸' : '▾'} ${words}`, fold, own),
            el('span', null, `${sizes(before, after)} · ${saving(before, after)}`),
            quiet(earlierText(members[0])),
            there.length ? button(t('Undo all of this run'), undoRun, {'data-action': 'undo-all'}) : [],
        );
    }

    async function showEarlier() {
        state.shownResults += 200;
        try {
            if (state.moreResults && state.shownResults > state.results.length) {
                const answer = await call('results', {before: state.results[0].result});
                state.results = [...answer.results, ...state.results];
                state.moreResults = Boolean(answer.more);
            }
        } catch (error) {
            showError(error);
        }
        drawResults();
    }

    /* The date of a file that an earlier session made. */
    function earlierText(result) {
        if (!result.earlier || !result.made) return '';
        return ` · ${new Date(1000 * result.made).toLocaleDateString()}`;
    }

    function resultRow(result) {
        const own = {
            class: 'resize-lora-result',
            role: 'listitem',
            'data-result': result.result,
            'data-key': result.output,
            'data-state': result.state,
        };
        const figure = (text, hint) => el('span', {class: 'resize-lora-result-figure', title: hint}, text);
        const notes = (result.notes || []).map(messageText).join(' · ');
        return el(
            'div',
            own,
            resultName(result),
            figure(sizes(result.bytes_before, result.bytes_after)),
            figure(saving(result.bytes_before, result.bytes_after)),
            figure(percent(result.retention), t('Weight retention')),
            el('span', {class: 'resize-lora-result-tools'}, resultTools(result)),
            resultEffect(result),
            notes ? quiet(notes, {class: 'resize-lora-quiet resize-lora-result-note'}) : [],
        );
    }

    /* The figure of the last comparison of images. */
    function resultEffect(result) {
        if (!result.effect) return [];
        const own = {class: 'resize-lora-quiet resize-lora-result-note', 'data-key': 'effect'};
        return quiet(effectText(result.effect), {...own, title: effectHint(result.effect)});
    }

    function resultName(result) {
        return el(
            'span',
            {class: 'resize-lora-result-name'},
            nameText(result.name, {class: 'resize-lora-name resize-lora-quiet'}),
            quiet(' → '),
            nameText(result.output, {class: 'resize-lora-name resize-lora-output'}),
            quiet(earlierText(result)),
        );
    }

    /* One main action, and a menu with the others. */
    function resultTools(result) {
        if (result.state === 'gone') return quiet(t('deleted'));
        if (result.state === 'trashed') {
            const restore = () => moveResult('restore', {result: result.result});
            return [quiet(t('in the trash')), resultButton(result, t('Restore'), restore, 'restore')];
        }
        return [result.changed ? changedMark() : [], mainAction(result), menuButton(result)];
    }

    /* The file is not the one that was written any more, so Undo may refuse to move it. */
    function changedMark() {
        const title = t('The file was changed after it was written. Undo may refuse to move it.');
        return el('span', {class: 'resize-lora-made resize-lora-changed', title}, t('changed'));
    }

    /* A button whose name for screen readers has the name of the file. */
    function resultButton(result, text, work, action) {
        return button(text, work, {'aria-label': `${text}: ${result.output}`, 'data-action': action});
    }

    function mainAction(result) {
        const {copyTag, sendText, sendToPrompt} = resizeLora.prompt;
        const about = {result: result.result};
        if (result.baked) return resizeLora.bake.bakedAction(result);
        if (!can('prompt')) return resultButton(result, t('Copy tag'), () => copyTag(about), 'copy');
        return resultButton(result, sendText(), () => sendToPrompt(about, false), 'send');
    }

    function menuButton(result) {
        const open = event => {
            const box = event.currentTarget.getBoundingClientRect();
            showMenu(result.output, menuItems(result), box.left, box.bottom);
        };
        const own = {'aria-label': `${t('More')}: ${result.output}`, 'aria-haspopup': 'menu', 'data-action': 'menu'};
        return button('⋯', open, own);
    }

    function menuItems(result) {
        const {copyTag, sendToPrompt} = resizeLora.prompt;
        const about = {result: result.result};
        const hasTag = can('prompt') && !result.baked;
        const items = [
            hasTag && menuItem(t('Send and generate'), () => sendToPrompt(about, true), 'generate'),
            hasTag && menuItem(t('Copy tag'), () => copyTag(about), 'copy'),
            !result.baked && !result.extracted && compareItem(about),
            state.files.has(result.name) && findItem(result.name),
            menuItem(t('Show in the library'), () => resizeLora.library.openInTab(result.output), 'show'),
            el('hr'),
            menuItem(t('Undo'), () => undo(result.result), 'undo'),
        ];
        return items.filter(Boolean);
    }

    function compareItem(about) {
        const reason = can('generate') ? '' : t('Image generation is not available here.');
        return menuItem(t('Compare'), () => resizeLora.compare.startComparison(about), 'compare', reason);
    }

    function findItem(name) {
        const reason = can('generate') ? '' : t('Image generation is not available here.');
        const find = () => resizeLora.find.openFind([name], {options: changedOptions()});
        return menuItem(t('Find the smallest…'), find, 'find', reason);
    }

    function undo(result) {
        return moveResult('undo', {result});
    }

    /* Undo, restore, and empty the trash. */
    async function moveResult(method, what) {
        try {
            const {note} = await call(method, what);
            if (note) toast(messageText(note));
            await reread();
        } catch (error) {
            showError(error);
        }
    }

    /* Reads the results and the library again, after files were moved. */
    async function reread() {
        setResults(await call('results'));
        resizeLora.redraw.refreshCards();
        await readLibrary();
    }

    function saveCsv() {
        const rows = state.results.map(result => {
            const cells = {...result, effect: result.effect ? result.effect.kept : ''};
            return CSV_COLUMNS.map(column => cells[column]);
        });
        const text = csvText([CSV_COLUMNS, ...rows]);
        const address = URL.createObjectURL(new Blob([text], {type: 'text/csv'}));
        download(address, 'resize-lora.csv');
        setTimeout(() => URL.revokeObjectURL(address), 10000);
    }

    /* What the toast of a resize offers once it is done. */
    function offerResult(result, note) {
        const {copyTag, sendText, sendToPrompt} = resizeLora.prompt;
        const about = {result: result.result};
        const use = can('prompt')
            ? button(sendText(), () => sendToPrompt(about, false), {'data-action': 'send'})
            : button(t('Copy tag'), () => copyTag(about), {'data-action': 'copy'});
        note.setText(`${result.name} ${sizes(result.bytes_before, result.bytes_after)}`);
        note.offer(
            use,
            button(t('Undo'), () => undoFromToast(result, note), {'data-action': 'undo'}),
        );
    }

    async function undoFromToast(result, note) {
        await undo(result.result);
        note.setText(t('{name} is in the trash.', {name: result.output}));
        note.offer();
        note.leave();
    }

    resizeLora.results = {
        addResult,
        drawResults,
        frameResults,
        moveResult,
        offerResult,
        reread,
        resultButton,
        setResults,
        undo,
    };
})((window.resizeLora = window.resizeLora || {}));
