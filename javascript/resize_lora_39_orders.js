/* Orders to resize. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.orders) return;

    const {count} = resizeLora.numbers;
    const {listed, t} = resizeLora.words;
    const {errorText} = resizeLora.messages;
    const {splitByRecipe} = resizeLora.text;
    const {button, pause} = resizeLora.elements;
    const {state} = resizeLora.model;
    const {changedOptions, chosenNames, chosenTarget, isBlocked} = resizeLora.choice;
    const {call} = resizeLora.wire;
    const {showError, toast} = resizeLora.dialogs;
    const {POLL_PAUSE, askStatus, poll} = resizeLora.jobs;
    const {addOwnJobs} = resizeLora.ownJobs;

    async function resizeChosen() {
        finishTyping();
        const names = chosenNames();
        if (!names.length || state.pending.order || isBlocked(names)) return;
        await queueResize({names, ...chosenTarget(), options: changedOptions(), ...resizeLora.fit.fitParams()});
    }

    /* A field applies its text when it loses the focus. */
    function finishTyping() {
        const field = document.activeElement;
        if (!state.root.contains(field) || !field.matches('input')) return;
        field.blur();
        field.focus();
    }

    /* Queues LoRAs, and reports what was refused and what exists already. */
    async function queueResize(params) {
        state.pending.order = true;
        resizeLora.queue.drawActions();
        try {
            reportOrder(params, await sendOrder(params));
        } catch (error) {
            showError(error);
        } finally {
            state.pending.order = false;
            resizeLora.queue.drawActions();
        }
        poll();
    }

    async function sendOrder(params) {
        const before = new Set(state.jobs.keys());
        try {
            const answer = await call('resize', params);
            addOwnJobs(answer.jobs, params);
            return {same: [], ...answer};
        } catch (error) {
            if (error.kind !== 'timeout') throw error;
            return findOrder(params, before);
        }
    }

    /* An order without an answer may have arrived. It is not sent twice; its jobs are looked up in the queue. */
    async function findOrder(params, before) {
        while (!(await askStatus())) await pause(2 * POLL_PAUSE);
        const isNew = job => job.kind === 'resize' && !before.has(job.id) && params.names.includes(job.name);
        const jobs = [...state.jobs.values()].filter(isNew).map(job => job.id);
        if (!jobs.length) {
            throw new Error(
                t('The server did not respond, and these files are not queued. Check the queue, then retry.'),
            );
        }
        addOwnJobs(jobs, params);
        return {jobs, refused: [], same: []};
    }

    const MOST_ERRORS = 3;

    function reportOrder(params, answer) {
        answer.refused.slice(0, MOST_ERRORS).forEach(one => toast(`${one.name}: ${errorText(one)}`, {bad: true}));
        const rest = answer.refused.slice(MOST_ERRORS).map(one => one.name);
        if (rest.length) toast(t('Also refused: {names}', {names: listed(rest)}), {bad: true});
        if (answer.same.length) offerAgain(params, answer.same);
    }

    /* The same order was sent before; it is repeated only on request. */
    function offerAgain(params, same) {
        const note = toast(sameText(same), {stays: true});
        note.offer(
            button(
                t('Resize again'),
                () => {
                    note.close();
                    splitByRecipe(params, same).forEach(part => queueResize({...part, again: true}));
                },
                {'data-action': 'again'},
            ),
        );
    }

    function sameText(same) {
        if (same.length > 1) {
            return t('{n} LoRAs were already resized with these settings or are queued: {names}', {
                n: count(same.length),
                names: listed(same.map(one => one.name)),
            });
        }
        const [{name, result}] = same;
        const made = state.results.find(one => one.result === result);
        if (!result) return t('{name} is already in the queue.', {name});
        return made
            ? t('{name} was already resized with these settings: {output}', {name, output: made.output})
            : t('{name} was already resized with these settings.', {name});
    }

    resizeLora.orders = {queueResize, resizeChosen, sameText};
})((window.resizeLora = window.resizeLora || {}));
