/* Results: what was made, with undo. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.results) return;

    const {percent, saving, sizes} = resizeLora.numbers;
    const {t} = resizeLora.words;
    const {messageText} = resizeLora.messages;
    const {csvText} = resizeLora.text;
    const {button, download, el, head, quiet, quietLine, section} = resizeLora.elements;
    const {state} = resizeLora.model;
    const {can} = resizeLora.choice;
    const {call} = resizeLora.wire;
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
        'recipe',
        'state',
    ];

    /* A result in a job is as old as the end of the job; the answer of `results` is newer. */
    function addResult(result) {
        if (state.results.some(one => one.result === result.result)) return;
        state.results.push(result);
        state.redraw.isDue = true;
        drawResults();
    }

    function setResults(answer) {
        state.results = answer.results;
        state.moreResults = Boolean(answer.more);
        state.trash = answer.trash;
        drawResults();
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
        const tools = [
            all.length ? button(t('Save as CSV'), saveCsv, {id: 'resize_lora_csv'}) : [],
            state.trash.items ? resizeLora.trash.trashButton() : [],
        ];
        parts.results.replaceChildren(
            head(t('Results'), tools),
            all.length ? el('div', {role: 'list'}, shown.map(resultRow)) : empty,
            ...(isMore ? [button(t('Show earlier results'), showEarlier, {id: 'resize_lora_earlier'})] : []),
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
            'data-state': result.state,
        };
        const figure = (text, hint) => el('span', {class: 'resize-lora-result-figure', title: hint}, text);
        const tools = result.state === 'there' ? presentTools(result) : removedTools(result);
        const notes = (result.notes || []).map(messageText).join(' ');
        return el(
            'div',
            own,
            resultName(result),
            figure(sizes(result.bytes_before, result.bytes_after)),
            figure(saving(result.bytes_before, result.bytes_after)),
            figure(percent(result.retention), t('Weight retention')),
            el('span', {class: 'resize-lora-result-tools'}, tools),
            notes ? quiet(notes, {class: 'resize-lora-quiet resize-lora-result-note'}) : [],
        );
    }

    function resultName(result) {
        const own = {class: 'resize-lora-cut resize-lora-result-name', title: result.recipe};
        return el(
            'span',
            own,
            quiet(`${result.name} → `),
            el('strong', null, result.output),
            quiet(earlierText(result)),
        );
    }

    function presentTools(result) {
        return [result.changed ? changedMark() : [], resultTools(result)];
    }

    /* The file is not the one that was written any more, so Undo may refuse to move it. */
    function changedMark() {
        const title = t('The file was changed after it was written. Undo may refuse to move it.');
        return el('span', {class: 'resize-lora-made resize-lora-changed', title}, t('changed'));
    }

    function resultTools(result) {
        if (result.baked) return resizeLora.bake.bakedTools(result);
        const compare = result.extracted ? [] : compareButton(result);
        return [promptButtons(result), compare, resultButton(result, t('Undo'), () => undo(result.result))];
    }

    /* A button whose name for screen readers has the name of the file. */
    function resultButton(result, text, work) {
        return button(text, work, {'aria-label': `${text}: ${result.output}`});
    }

    function promptButtons(result) {
        const {copyTag, sendToPrompt} = resizeLora.prompt;
        const about = {result: result.result};
        if (!can('prompt')) return resultButton(result, t('Copy tag'), () => copyTag(about));
        return [
            resultButton(result, t('Send to txt2img'), () => sendToPrompt(about, false)),
            resultButton(result, t('Send and generate'), () => sendToPrompt(about, true)),
        ];
    }

    function compareButton(result) {
        const {startComparison} = resizeLora.compare;
        const made = resultButton(result, t('Compare'), () => startComparison({result: result.result}));
        if (!can('generate')) {
            made.disabled = true;
            made.title = t('Image generation is not available here.');
        }
        return made;
    }

    function removedTools(result) {
        if (result.state === 'gone') return quiet(t('deleted'));
        const restore = () => moveResult('restore', {result: result.result});
        return [quiet(t('in the trash')), resultButton(result, t('Restore'), restore)];
    }

    function undo(result) {
        return moveResult('undo', {result});
    }

    /* Undo, restore, and empty the trash. */
    async function moveResult(method, what) {
        try {
            const {note} = await call(method, what);
            if (note) toast(messageText(note));
            setResults(await call('results'));
            resizeLora.redraw.refreshCards();
            await readLibrary();
        } catch (error) {
            showError(error);
        }
    }

    function saveCsv() {
        const rows = state.results.map(result => CSV_COLUMNS.map(column => result[column]));
        const text = csvText([CSV_COLUMNS, ...rows]);
        const address = URL.createObjectURL(new Blob([text], {type: 'text/csv'}));
        download(address, 'resize-lora.csv');
        setTimeout(() => URL.revokeObjectURL(address), 10000);
    }

    /* What the toast of a resize offers once it is done. */
    function offerResult(result, note) {
        const {copyTag, sendToPrompt} = resizeLora.prompt;
        const about = {result: result.result};
        const use = can('prompt')
            ? button(t('Send to txt2img'), () => sendToPrompt(about, false))
            : button(t('Copy tag'), () => copyTag(about));
        note.setText(`${result.name} ${sizes(result.bytes_before, result.bytes_after)}`);
        note.offer(
            use,
            button(t('Undo'), () => undoFromToast(result, note)),
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
        resultButton,
        setResults,
        undo,
    };
})((window.resizeLora = window.resizeLora || {}));
