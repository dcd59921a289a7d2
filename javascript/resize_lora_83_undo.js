/* Undo of what this page made: a toast after every run, and all files of a run at once. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.undo) return;

    const {count, sizes, sum} = resizeLora.numbers;
    const {listed, plural, t} = resizeLora.words;
    const {errorText, messageText} = resizeLora.messages;
    const {button} = resizeLora.elements;
    const {ENDED, state} = resizeLora.model;
    const {call} = resizeLora.wire;
    const {toast} = resizeLora.dialogs;
    const {reread} = resizeLora.results;

    const SECONDS = 20; // that a toast offers to undo

    /* Offers to undo the orders of this page that have ended since. */
    function offerEnded() {
        for (const order of new Set(state.orders.values())) {
            const jobs = order.jobs.map(id => state.jobs.get(id));
            if (order.isOffered || !jobs.every(job => job && ENDED.includes(job.state))) continue;
            order.isOffered = true;
            const made = jobs.filter(job => job.state === 'done').map(job => job.result);
            if (made.length) offerUndo(made);
        }
    }

    function offerUndo(made) {
        const note = toast(madeText(made), {stays: true});
        const words = made.length > 1 ? t('Undo all of this run') : t('Undo');
        const press = () => {
            note.close();
            undoAll(made.map(result => result.result));
        };
        note.offer(button(words, press, {'data-action': 'undo-run'}));
        note.countDown(SECONDS);
    }

    function madeText(made) {
        const change = sizes(sum(made, 'bytes_before'), sum(made, 'bytes_after'));
        if (made.length === 1) return `${made[0].name} ${change}`;
        return t('{n} files: {sizes}', {n: count(made.length), sizes: change});
    }

    /* Moves results to the trash, one after the other. One that is refused does not stop the rest. */
    async function undoAll(ids) {
        let done = 0;
        const refused = [];
        for (const result of ids) {
            try {
                const {note} = await call('undo', {result});
                if (note) toast(messageText(note));
                done += 1;
            } catch (error) {
                if (error.kind === 'stale') return;
                refused.push(errorText(error));
            }
        }
        if (done) toast(plural(done, '{n} file moved to the trash', '{n} files moved to the trash'));
        if (refused.length) toast(listed(refused, 3), {bad: true});
        await reread();
    }

    resizeLora.undo = {SECONDS, offerEnded, undoAll};
})((window.resizeLora = window.resizeLora || {}));
