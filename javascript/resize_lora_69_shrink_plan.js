/* The plan of a run over a library: what is asked, the sums of it, and the parameters of the run. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.shrinkPlan) return;

    const {size} = resizeLora.numbers;
    const {t} = resizeLora.words;
    const {messageText} = resizeLora.messages;
    const {roomNeeded, sumsOf} = resizeLora.sums;
    const {PRESETS, state} = resizeLora.model;
    const {changedOptions, chosenRecipe, chosenTarget, isTargetValid, plainOptions} = resizeLora.choice;
    const {goalFault, shareOf} = resizeLora.imageForm;
    const {imagesQuestion, isByImages, isFitted} = resizeLora.shrinkImages;
    const {callWithRetry} = resizeLora.wire;
    const {showError} = resizeLora.dialogs;

    const ANY_SHARE = 0.9; // the plan is the same for each target by images

    /* The names of a scope; those of *all* are what the server has. */
    function chosen(scope) {
        if (scope === 'selected') return new Set([...state.selected].filter(name => state.files.has(name)));
        return new Set((scope === 'filtered' ? state.shown : [...state.files.values()]).map(file => file.name));
    }

    /* The preset of the tab; of a card the default one. */
    function firstPreset(name) {
        if (name) return (state.hello.defaults || {}).preset || 'medium';
        return hasOwnTarget() ? 'panel' : state.target.preset;
    }

    /* The target of the tab is none of the presets. */
    function hasOwnTarget() {
        return state.target.mode !== 'preset' || !plainOptions();
    }

    /* The parameters of the chosen target. The presets use the defaults, as the menu of a card does. */
    function targetOf(preset) {
        if (preset === 'panel') return {...chosenTarget(), options: changedOptions()};
        const target = preset === 'images' ? {effect: shareOf(state.shrink.images)} : {preset};
        return {target, options: changedOptions((state.hello.defaults || {}).options || {})};
    }

    function planQuestion() {
        const {again, name, preset} = state.shrink;
        return {
            ...(name ? {names: [name]} : {}),
            ...(preset === 'panel' ? targetOf('panel') : {}),
            ...(isByImages() ? {target: {effect: ANY_SHARE}} : {}),
            ...(isFitted() ? {fit: true} : {}),
            again,
        };
    }

    function planNow() {
        return state.shrink.plans.get(JSON.stringify(planQuestion())) || null;
    }

    /* The plan to show: that of the present choice, and until it arrives the last one. */
    function planShown() {
        return planNow() || state.shrink.lastPlan;
    }

    /* Asks for the plan of the present choice; one that is known and up to date is not asked for again. */
    async function readPlan() {
        const {shrink} = state;
        while (shrink.isOpen && !shrink.isReading && mayAsk()) {
            shrink.isReading = true;
            const isRead = await readOnePlan();
            shrink.isReading = false;
            resizeLora.shrink.drawShrink();
            if (!isRead) return;
        }
    }

    function mayAsk() {
        const {isOld, preset} = state.shrink;
        return (isOld || !planNow()) && (preset !== 'panel' || isTargetValid());
    }

    async function readOnePlan() {
        const {shrink} = state;
        const question = planQuestion();
        if (shrink.isOld) shrink.plans.clear();
        shrink.isOld = false;
        try {
            shrink.lastPlan = await callWithRetry('shrink_plan', question);
            shrink.plans.set(JSON.stringify(question), shrink.lastPlan);
            return true;
        } catch (error) {
            showError(error);
            return false;
        }
    }

    /* Files were estimated, replaced or restored: the plan is out of date. */
    function readPlanAgain() {
        state.shrink.isOld = true;
        readPlan();
    }

    function scopedRows(plan) {
        if (state.shrink.name || state.shrink.scope === 'all') return plan.rows;
        const names = chosen(state.shrink.scope);
        return plan.rows.filter(row => names.has(row.name));
    }

    /* The new size of a file: that of the plan, or of an estimate that was made since. */
    function afterOf(row, preset) {
        if (preset === 'panel') return row.after;
        if (preset === 'images') return null;
        const file = state.files.get(row.name);
        const predicted = row.predicted || (file && !file.archived && file.predicted);
        return predicted ? predicted[preset] : null;
    }

    function sumsNow(plan) {
        const {preset: picked} = state.shrink;
        const rows = plan ? scopedRows(plan) : [];
        const sums = {};
        for (const preset of [...PRESETS, ...(hasOwnTarget() ? ['panel'] : []), 'images']) {
            const isKnown = plan && (PRESETS.includes(preset) || picked === preset);
            sums[preset] = isKnown ? sumsOf(rows, row => afterOf(row, preset), state.shrink) : null;
        }
        return {rows, sums};
    }

    function recipeNow() {
        const {preset} = state.shrink;
        return preset === 'panel' ? chosenRecipe() : state.hello.presets[preset] || '';
    }

    /* The parameters of the run. Limits go to the server, so that the report has what they leave alone. */
    function runQuestion() {
        const {shrink} = state;
        const names = shrink.name ? [shrink.name] : [...chosen(shrink.scope)];
        return {
            ...(!shrink.name && shrink.scope === 'all' ? {} : {names}),
            ...targetOf(shrink.preset),
            ...imagesQuestion(),
            again: shrink.again,
            least_gain: shrink.leastGain,
            ...(shrink.floor == null ? {} : {floor: shrink.floor / 100}),
            excluded_folders: shrink.name ? [] : [...shrink.folders],
            excluded_families: shrink.name ? [] : [...shrink.families],
            originals: shrink.originals,
            ...(shrink.originals === 'none' ? {confirm: shrink.isSure} : {}),
        };
    }

    /* Why the run cannot start; '' where it can, or where the page does not know yet. */
    function faultText(plan, sums) {
        if (state.shrink.preset === 'panel' && !isTargetValid()) return t('The recipe in the tab is invalid.');
        const fault = isByImages() ? goalFault(state.shrink.images) : '';
        if (fault || !plan) return fault;
        if (!sums.files) return t('With these limits, no LoRA is left to resize.');
        if (state.shrink.originals === 'none') return '';
        const needed = roomNeeded(sums, plan.archive.same_disk);
        if (plan.archive.problem) return messageText(plan.archive.problem);
        if (plan.archive.free == null || plan.archive.free >= needed) return '';
        const values = {needed: size(needed), free: size(plan.archive.free)};
        return t('The disk of the archive has {free} free, and {needed} are needed.', values);
    }

    resizeLora.shrinkPlan = {
        afterOf,
        chosen,
        faultText,
        firstPreset,
        planNow,
        planShown,
        readPlan,
        readPlanAgain,
        recipeNow,
        runQuestion,
        scopedRows,
        sumsNow,
        targetOf,
    };
})((window.resizeLora = window.resizeLora || {}));
