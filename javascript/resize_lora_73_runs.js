/* Runs over a library: read, followed, controlled and announced. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.runs) return;

    const {count, size, sizes} = resizeLora.numbers;
    const {plural, t} = resizeLora.words;
    const {messageText} = resizeLora.messages;
    const {titleWith} = resizeLora.items;
    const {button} = resizeLora.elements;
    const {state} = resizeLora.model;
    const {activeJobs} = resizeLora.choice;
    const {call, callWithRetry} = resizeLora.wire;
    const {showError, toast} = resizeLora.dialogs;
    const {confirmButton} = resizeLora.confirm;
    const {follow, poll} = resizeLora.jobs;
    const {endText, itemNote} = resizeLora.runWords;

    const READ_PAUSE = 1500; // milliseconds between two readings of a run in progress
    const OTHERS_PAUSE = 5000; // the same where another program works on it
    const MOST_NOTES = 3;

    const OVER = ['done', 'stopped'];

    function jobOf(run) {
        return (run.job && state.jobs.get(run.job)) || null;
    }

    /* The share of a run that is done, from 0 to 1. A job of the queue is newer than the list of runs. */
    function shareOf(run) {
        const job = jobOf(run);
        return Math.min(1, Math.max(run.share || 0, (job && job.share) || 0));
    }

    function runningRun() {
        return state.runs.list.find(run => run.state === 'running');
    }

    async function readRuns() {
        state.runs.last = Date.now();
        applyRuns(await callWithRetry('runs'));
        const {list, open, page} = state.runs;
        const shown = list.filter(run => open.has(run.run) || run.run === page);
        await Promise.all(shown.map(run => readItems(run.run)));
    }

    function applyRuns({runs, recovered}) {
        const {awaited} = state.runs;
        state.runs.list = runs;
        noteEach(recovered.map(messageText));
        for (const run of runs) {
            if (!OVER.includes(run.state)) awaited.add(run.run);
            else if (awaited.delete(run.run)) announce(run).catch(showError);
        }
        draw();
        followOthers();
    }

    function draw() {
        const run = runningRun();
        const title = titleWith(document.title, run ? shareOf(run) : null);
        if (title !== document.title) document.title = title;
        resizeLora.runRows.drawRuns();
        resizeLora.runPage.drawRunPage();
    }

    /* The files of a run, for a run that is unfolded or whose page is open. */
    async function readItems(id) {
        const {run, items} = await callWithRetry('run', {run: id});
        state.runs.items.set(id, items);
        state.runs.list = state.runs.list.map(one => (one.run === id ? run : one));
        draw();
    }

    /* Called after each status of the queue. */
    function onStatus() {
        const isActive = activeJobs().some(job => job.kind === 'shrink');
        if (isActive && Date.now() - state.runs.last > READ_PAUSE) readRuns().catch(showError);
        draw();
    }

    /* A run that another program works on has no job in this queue, so nothing else asks for its progress. */
    function followOthers() {
        clearTimeout(state.runs.timer);
        const run = runningRun();
        if (run && !jobOf(run)) state.runs.timer = setTimeout(() => readRuns().catch(showError), OTHERS_PAUSE);
    }

    /* Handles the end of a job of a run or of the archive. Returns whether it was one. */
    function endRunJob(job, first) {
        if (!['shrink', 'restore_originals', 'estimate'].includes(job.kind)) return false;
        if (first) return true;
        if (job.kind !== 'estimate') {
            state.redraw.isDue = true;
            readRuns().catch(showError);
            resizeLora.archive.readArchive().catch(showError);
        }
        resizeLora.shrinkPlan.readPlanAgain();
        return true;
    }

    /* Starts a run. One without an answer may have begun, so that it is looked for and not started twice. */
    async function startRun(question) {
        const before = new Set(state.runs.list.map(one => one.run));
        try {
            state.runs.awaited.add((await call('shrink', question)).run);
        } catch (error) {
            if (error.kind !== 'timeout') throw error;
            await readRuns();
            if (state.runs.list.every(one => before.has(one.run))) throw error;
        }
        poll();
        await readRuns();
    }

    async function control(run, action) {
        try {
            const answer = await call('run_control', {run: run.run, action});
            state.runs.list = state.runs.list.map(one => (one.run === run.run ? answer.run : one));
            draw();
            poll();
            await readRuns();
        } catch (error) {
            showError(error);
        }
    }

    /* Reports the end of a run in a toast, and by the browser where that is permitted. */
    async function announce(run) {
        const text = run.files === 1 ? await oneFileText(run) : endText(run);
        const note = toast(text, {stays: true});
        const report = button(t('Report'), () => resizeLora.runPage.openRunPage(run.run), {'data-action': 'report'});
        note.offer(run.files === 1 ? [] : report, run.archived ? undoButton(run, () => note.close()) : []);
        note.leave();
        notify(text);
    }

    async function oneFileText(run) {
        const [item] = (await callWithRetry('run', {run: run.run})).items;
        if (!item || item.state !== 'resized') return item ? `${item.name}: ${itemNote(item)}` : endText(run);
        return `${item.name} ${sizes(item.bytes_before, item.bytes_after)}`;
    }

    /* Asks for the browser's permission to notify. Only for the click that starts a run. */
    function askToNotify() {
        const {Notification} = window;
        if (Notification && Notification.permission === 'default') Notification.requestPermission();
    }

    function notify(text) {
        const {Notification} = window;
        if (!Notification || Notification.permission !== 'granted') return;
        try {
            new Notification(t('Resize LoRA'), {body: text}).onclick = () => window.focus();
        } catch (error) {
            console.warn('Resize LoRA: no notification', error); // browsers of phones allow it in service workers only
        }
    }

    /* A button that restores all originals of a run once it is confirmed. */
    function undoButton(run, onDone = () => undefined) {
        const work = () => {
            onDone();
            restoreOriginals({run: run.run});
        };
        const ask = () => t('Restore all originals of this run, {size}?', {size: size(run.archived)});
        return confirmButton(t('Undo all of this run'), {ask, sure: t('Restore'), work, 'data-action': 'undo-run'});
    }

    /* Moves originals back from the archive, as a job that a toast shows. */
    async function restoreOriginals(what) {
        try {
            const {job} = await call('restore_originals', what);
            follow(job, toast(t('Restoring originals…'), {stays: true}));
        } catch (error) {
            showError(error);
        }
    }

    function offerRestored({restored, refused, notes, bytes}, note) {
        const values = {size: size(bytes)};
        note.setText(
            plural(restored.length, '{n} original restored, {size}', '{n} originals restored, {size}', values),
        );
        noteEach(
            refused.map(one => `${one.name}: ${messageText(one.message)}`),
            {bad: true},
        );
        noteEach(notes.map(messageText));
    }

    /* Shows some texts as toasts that stay, and of more of them the first ones. */
    function noteEach(texts, look) {
        texts.slice(0, MOST_NOTES).forEach(text => toast(text, {stays: true, ...look}));
        const more = texts.length - MOST_NOTES;
        if (more > 0) toast(t('and {n} more', {n: count(more)}), look);
    }

    resizeLora.runs = {
        askToNotify,
        control,
        endRunJob,
        jobOf,
        offerRestored,
        onStatus,
        readItems,
        readRuns,
        restoreOriginals,
        shareOf,
        startRun,
        undoButton,
    };
})((window.resizeLora = window.resizeLora || {}));
