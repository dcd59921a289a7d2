/* The jobs of the queue, followed until they end. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.jobs) return;

    const {t} = resizeLora.words;
    const {errorText} = resizeLora.messages;
    const {button, pause} = resizeLora.elements;
    const {ENDED, state} = resizeLora.model;
    const {activeJobs, ownActiveJobs} = resizeLora.choice;
    const {call} = resizeLora.wire;
    const {showError, toast} = resizeLora.dialogs;
    const {onRestart, readLibrary} = resizeLora.session;

    const POLL_PAUSE = 400;
    const LONGEST_POLL_PAUSE = 15000; // milliseconds between two calls

    /* Asks for the status while jobs may be active. A call that fails is repeated after longer and longer pauses. */
    async function poll() {
        state.following.again = true;
        if (state.following.on) return;
        state.following.on = true;
        try {
            for (let wait = POLL_PAUSE; state.following.again;) {
                state.following.again = false;
                wait = (await askStatus()) ? POLL_PAUSE : Math.min(2 * wait, LONGEST_POLL_PAUSE);
                if (state.following.again) await pause(wait);
            }
        } catch (error) {
            showError(error);
        } finally {
            state.following.on = false;
        }
    }

    /* Asks once and returns whether there was an answer. Throws where no job is active, so that nobody asks again. */
    async function askStatus() {
        try {
            const status = await call('status', state.revision == null ? {} : {since: state.revision});
            if (applyStatus(status)) state.following.again = true;
            clearSilence();
            return true;
        } catch (error) {
            if (error.kind === 'stale') return false;
            if (!mayBeActive()) throw error;
            state.following.again = true;
            state.following.silent =
                state.following.silent || toast(t('The server does not respond. Retrying…'), {stays: true});
            return false;
        }
    }

    /* Jobs of this page that no status has shown yet may be active, and so may those of an order without an answer.
       Before the first status nothing is known. */
    function mayBeActive() {
        const isUnknown = state.revision == null || [...state.ownJobs].some(id => !state.jobs.has(id));
        return isUnknown || state.pending.order || activeJobs().length > 0;
    }

    function clearSilence() {
        if (state.following.silent) state.following.silent.close();
        state.following.silent = null;
    }

    /* Returns whether jobs are active. */
    function applyStatus(status) {
        if (status.session && state.session && status.session !== state.session) {
            onRestart();
            return false;
        }
        if (status.reset && state.revision != null) {
            state.revision = null;
            call('results').then(resizeLora.results.setResults).catch(showError);
            return true;
        }
        applyDelta(status);
        if (state.library.complete && status.library > state.library.revision) readLibrary().catch(showError);
        resizeLora.ownJobs.reportStopped();
        resizeLora.undo.offerEnded();
        if (state.redraw.isDue) resizeLora.redraw.refreshCards();
        if (!status.active) resizeLora.redraw.queueRanEmpty();
        resizeLora.queue.drawQueue();
        resizeLora.queue.drawActions();
        resizeLora.runs.onStatus();
        return status.active > 0 || state.revision == null;
    }

    function applyDelta(status) {
        const first = state.revision == null;
        state.revision = status.revision;
        state.busy = status.busy;
        state.secondsLeft = status.seconds_left;
        setLoadedReference(status.reference);
        status.queue.forEach(job => applyJob(job, first));
        placeJobs(status.places, first);
        [...state.ownJobs].filter(id => !state.jobs.has(id)).forEach(id => state.ownJobs.delete(id));
    }

    function setLoadedReference(reference) {
        const before = state.reference;
        state.reference = reference;
        resizeLora.reference.drawReference();
        if (!before || before.title === reference.title) return;
        state.epoch += 1;
        resizeLora.target.drawTarget();
        resizeLora.analysis.askPlanSoon();
    }

    /* Every answer has the places and times of all active jobs; where one lacks, the status is read in full. */
    function placeJobs(places, first) {
        if (!places) return;
        for (const job of activeJobs()) {
            if (places[job.id]) [job.place, job.seconds_left] = places[job.id];
            else if (first) state.jobs.delete(job.id);
            else state.revision = null;
        }
    }

    /* `first`: the job is part of the first answer, so it may have ended long ago. */
    function applyJob(job, first) {
        const before = state.jobs.get(job.id);
        const note = state.toasts.get(job.id);
        state.jobs.set(job.id, {...job, seen: before && before.seen});
        if (note) showInToast(job, note);
        if (ENDED.includes(job.state) && !(before && ENDED.includes(before.state))) endJob(job, first, note);
    }

    function endJob(job, first, note) {
        const isDone = job.state === 'done';
        if (resizeLora.runs.endRunJob(job, first)) return;
        if (job.kind === 'analyse') endAnalysis(job, first);
        else if (job.kind === 'spectra') resizeLora.study.endStudy(job);
        else if (job.kind === 'bake_plan') resizeLora.bakePlan.endPlan(job);
        else if (job.kind === 'estimate') resizeLora.library.drawLibrary();
        else if (job.kind !== 'compare' && isDone) resizeLora.results.addResult(job.result);
        else if (isDone && note) resizeLora.compare.openComparison(job.result, job.id);
    }

    function endAnalysis(job, first) {
        for (const [name, id] of state.analysing) if (id === job.id) state.analysing.delete(name);
        const {files, failed} = job.result || {files: [], failed: []};
        files.forEach(storeAnalysis);
        const fault = failed.find(one => one.name === state.current);
        if (fault) {
            state.analysisError = errorText(fault);
        } else if (job.error && job.state === 'failed' && state.ownJobs.has(job.id) && !first) {
            state.analysisError = errorText(job.error);
        }
        if (job.state === 'done') resizeLora.analysis.askPlan();
        resizeLora.target.drawTarget();
        resizeLora.library.drawLibrary();
    }

    /* Analyses of many files come without tables, and do not replace one that has its table. */
    function storeAnalysis(found) {
        const known = state.analyses.get(found.name);
        state.analyses.set(found.name, found.table || !known ? found : known);
        if (found.name === state.current) state.epoch += 1;
    }

    async function cancel(jobs) {
        if (!jobs.length) return;
        jobs.filter(id => state.orders.has(id)).forEach(id => state.stopping.add(state.orders.get(id)));
        try {
            await call('cancel', {jobs});
        } catch (error) {
            if (error.kind !== 'gone') showError(error);
        }
        poll();
    }

    /* Cancels the jobs of this page, not those of other pages or programs. */
    function cancelOwn() {
        cancel(ownActiveJobs().map(job => job.id));
    }

    /* Shows a job in a toast until it ends, with a button to cancel it. */
    function follow(job, note) {
        resizeLora.ownJobs.addOwnJobs([job]);
        state.toasts.set(job, note);
        note.offer(button(t('Cancel'), () => cancel([job]), {'data-action': 'cancel'}));
        poll();
    }

    function showInToast(job, note) {
        if (!ENDED.includes(job.state)) {
            note.setText(`${job.title}: ${resizeLora.queue.jobText(job)}`);
            return;
        }
        state.toasts.delete(job.id);
        note.offer();
        if (job.state === 'done') {
            showDone(job, note);
            note.countDown(resizeLora.undo.SECONDS);
        } else {
            note.setText(`${job.title}: ${job.state === 'cancelled' ? t('cancelled') : errorText(job.error)}`);
            note.leave();
        }
    }

    function showDone(job, note) {
        if (job.kind === 'bake') resizeLora.bake.offerBaked(job.result, note);
        else if (job.kind === 'compare') note.close();
        else if (job.kind === 'restore_originals') resizeLora.runs.offerRestored(job.result, note);
        else resizeLora.results.offerResult(job.result, note);
    }

    resizeLora.jobs = {POLL_PAUSE, askStatus, cancel, cancelOwn, follow, poll};
})((window.resizeLora = window.resizeLora || {}));
