/* What *Bake my prompt* would write: its size and all remarks, before the press. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.bakePlan) return;

    const {percent, saving, sizes} = resizeLora.numbers;
    const {t} = resizeLora.words;
    const {el, later, quiet} = resizeLora.elements;
    const {ENDED, state} = resizeLora.model;
    const {changedOptions, isTargetValid} = resizeLora.choice;
    const {call} = resizeLora.wire;
    const {cancel, poll} = resizeLora.jobs;
    const {addOwnJobs} = resizeLora.ownJobs;

    const planSoon = later(askPlan, 300);

    /* Asks for the plan of what the dialog says now; the one before is stopped. */
    async function askPlan() {
        const mine = state.baking;
        if (!mine || !mine.box || !mine.box.open) return;
        leavePlan();
        if (mine.run.disabled || (mine.target === 'panel' && !isTargetValid())) {
            mine.plan.replaceChildren();
            return;
        }
        mine.plan.replaceChildren(quiet(t('Computing the size…')));
        const params = {prompt: mine.prompt.value, ...resizeLora.bake.goalOf(mine.target), options: changedOptions()};
        mine.asked = JSON.stringify(params);
        const {asked} = mine;
        try {
            const {job} = await call('bake_plan', params);
            addOwnJobs([job]);
            if (mine.asked === asked && mine.box.open) mine.planJob = job;
            else cancel([job]);
            poll();
        } catch (error) {
            if (mine.asked === asked) showFault(mine, error);
        }
    }

    /* Stops the plan that is being made. */
    function leavePlan() {
        const mine = state.baking;
        const job = mine && state.jobs.get(mine.planJob);
        if (mine && mine.planJob && !(job && ENDED.includes(job.state))) cancel([mine.planJob]);
        if (mine) mine.planJob = null;
    }

    function endPlan(job) {
        const mine = state.baking;
        if (!mine || mine.planJob !== job.id) return;
        mine.planJob = null;
        if (job.state === 'done') showPlan(mine, job.result);
        else if (job.error) showFault(mine, job.error);
        else mine.plan.replaceChildren();
    }

    function showPlan(mine, plan) {
        const {bytes_before: before, bytes_after: after} = plan;
        const figures = `${sizes(before, after)} · ${saving(before, after)}`;
        const kept = `${t('Weight retention')} ${percent(plan.retention)}`;
        const larger = after > before ? el('li', null, t('The new file would be larger than its parts together.')) : [];
        mine.plan.replaceChildren(
            el('strong', null, figures),
            quiet(` · ${kept}`),
            el(
                'ul',
                null,
                larger,
                plan.notes.map(note => el('li', null, note)),
            ),
        );
    }

    function showFault(mine, error) {
        mine.plan.replaceChildren(el('span', {class: 'resize-lora-fault'}, error.message));
    }

    resizeLora.bakePlan = {endPlan, leavePlan, planSoon};
})((window.resizeLora = window.resizeLora || {}));
