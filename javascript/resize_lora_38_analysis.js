/* Analyses and plans of the current LoRA. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.analysis) return;

    const {errorText} = resizeLora.messages;
    const {later} = resizeLora.elements;
    const {state} = resizeLora.model;
    const {analysis, changedOptions, choiceKey, chosenRecipe, chosenTarget, isTargetValid, planKey, planNow} =
        resizeLora.choice;
    const {call} = resizeLora.wire;
    const {showError} = resizeLora.dialogs;
    const {cancel, poll} = resizeLora.jobs;
    const {addOwnJobs} = resizeLora.ownJobs;

    /* Makes a LoRA the one that the target shows, and has it analysed. */
    function setCurrent(name) {
        if (name === state.current) return;
        const leaving = state.analysing.get(state.current);
        state.current = name;
        state.plan = state.refusedPlan = null;
        state.analysisError = '';
        if (leaving && state.ownJobs.has(leaving) && !state.selected.has(name)) cancel([leaving]);
        resizeLora.target.drawTarget();
        analyseSoon();
    }

    const analyseSoon = later(() => {
        const file = state.files.get(state.current);
        if (!file || file.problem) return;
        const known = analysis();
        if (known && known.table) askPlan();
        else if (!state.analysing.has(file.name)) analyse([file.name]);
    }, 200);

    async function analyse(names, recipe) {
        const params = {names, reference: state.options.reference};
        if (recipe) params.recipe = recipe;
        try {
            const {job} = await call('analyse', params);
            names.forEach(name => state.analysing.set(name, job));
            addOwnJobs([job]);
            resizeLora.target.drawTarget();
            poll();
        } catch (error) {
            showError(error);
        }
    }

    /* Asks for the exact figures of the present choice, again where the choice changes meanwhile. */
    async function askPlan() {
        if (state.pending.plan) return;
        state.pending.plan = true;
        try {
            for (let last = ''; mayPlan() && last !== planKey();) {
                last = planKey();
                await askForPlan(last);
            }
        } finally {
            state.pending.plan = false;
        }
        resizeLora.target.drawTarget();
        resizeLora.library.drawTotals();
    }

    function mayPlan() {
        const isKnown = planNow() || (state.refusedPlan && state.refusedPlan.key === planKey());
        return Boolean(analysis()) && isTargetValid() && !isKnown;
    }

    async function askForPlan(key) {
        const choice = choiceKey();
        try {
            const result = await call('plan', {name: state.current, ...chosenTarget(), options: changedOptions()});
            if (key !== planKey()) return;
            state.plan = {key, result};
            state.analysedFor = '';
        } catch (error) {
            if (key !== planKey() || error.kind === 'stale') return;
            if (error.kind === 'not_analysed' && state.analysedFor !== choice) {
                state.analysedFor = choice;
                await analyse([state.current], chosenRecipe());
            } else if (error.kind === 'timeout') {
                showError(error);
            } else {
                state.refusedPlan = {key, message: errorText(error)};
            }
        }
        resizeLora.target.drawTarget();
        resizeLora.rows.drawRows();
    }

    const askPlanSoon = later(askPlan, 60);

    resizeLora.analysis = {analyse, analyseSoon, askPlan, askPlanSoon, setCurrent};
})((window.resizeLora = window.resizeLora || {}));
