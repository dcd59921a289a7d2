/* Jobs that this page started; they survive a reload of the page. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.ownJobs) return;

    const {count} = resizeLora.numbers;
    const {listed, t} = resizeLora.words;
    const {parsed, splitByRecipe} = resizeLora.text;
    const {button} = resizeLora.elements;
    const {ENDED, state} = resizeLora.model;
    const {toast} = resizeLora.dialogs;

    const STORAGE_KEY = 'resize-lora-own';

    /* Records jobs that this page started, also for when it is reloaded; `params` are those of a resize. */
    function addOwnJobs(jobs, params) {
        const known = params && {jobs, params};
        for (const id of jobs) {
            state.ownJobs.add(id);
            if (known) state.orders.set(id, known);
        }
        storeOwnJobs();
    }

    function storeOwnJobs() {
        const over = id => state.jobs.has(id) && ENDED.includes(state.jobs.get(id).state);
        const orders = [...new Set(state.orders.values())].filter(one => !one.jobs.every(over));
        const kept = {session: state.session, jobs: [...state.ownJobs].filter(id => !over(id)), orders};
        try {
            sessionStorage.setItem(STORAGE_KEY, JSON.stringify(kept));
        } catch (error) {
            console.warn('Resize LoRA: no session storage', error);
        }
    }

    function restoreOwnJobs() {
        const kept = parsed(storedOwnJobs() || '');
        if (!kept || !state.session || kept.session !== state.session) return;
        kept.jobs.forEach(id => state.ownJobs.add(id));
        kept.orders.forEach(one => one.jobs.forEach(id => state.orders.set(id, one)));
    }

    function storedOwnJobs() {
        try {
            return sessionStorage.getItem(STORAGE_KEY);
        } catch {
            return null;
        }
    }

    /* Reports cancelled orders once all their jobs have ended, with a button to continue. */
    function reportStopped() {
        for (const one of state.stopping) {
            const jobs = one.jobs.map(id => state.jobs.get(id)).filter(Boolean);
            if (jobs.some(job => !ENDED.includes(job.state))) continue;
            state.stopping.delete(one);
            const stopped = jobs.filter(job => job.state === 'cancelled');
            if (stopped.length) offerToContinue(one.params, stopped, jobs.filter(job => job.state === 'done').length);
        }
    }

    function offerToContinue(params, stopped, done) {
        const values = {done: count(done), n: count(stopped.length), names: listed(stopped.map(job => job.name))};
        const note = toast(t('{done} done, {n} cancelled: {names}', values), {stays: true});
        note.offer(
            button(
                t('Continue'),
                () => {
                    note.close();
                    splitByRecipe(params, stopped).forEach(resizeLora.orders.queueResize);
                },
                {'data-action': 'continue'},
            ),
        );
    }

    resizeLora.ownJobs = {addOwnJobs, reportStopped, restoreOwnJobs};
})((window.resizeLora = window.resizeLora || {}));
