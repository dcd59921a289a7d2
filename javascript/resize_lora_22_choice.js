/* What the state means: the chosen target, what is known about it, and the jobs in progress. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.choice) return;

    const {MIB, size} = resizeLora.numbers;
    const {t} = resizeLora.words;
    const {inReach, pointFor} = resizeLora.curve;
    const {DEFAULTS, ENDED, state} = resizeLora.model;

    function can(feature) {
        return Boolean(state.hello && state.hello.features.includes(feature));
    }

    function analysis() {
        return state.analyses.get(state.current) || null;
    }

    function plainOptions() {
        return ['dtype', 'scores', 'rescale'].every(name => state.options[name] === DEFAULTS[name]);
    }

    function table() {
        const known = analysis();
        return known && known.table && plainOptions() ? known.table : null;
    }

    /* The server has accepted the present text in the recipe field. Half a recipe may be valid with another meaning. */
    function isRecipeValid() {
        return state.recipe.ok && state.recipe.text === state.target.recipe;
    }

    function isTargetValid() {
        return !state.isNumberInvalid && (state.target.mode !== 'recipe' || isRecipeValid());
    }

    /* The chosen target as parameters of a call. */
    function chosenTarget() {
        const target = state.target;
        return target.mode === 'recipe' ? {recipe: target.recipe} : {target: {[target.mode]: target[target.mode]}};
    }

    /* The recipe of the chosen target, as the recipe field shows it. */
    function chosenRecipe() {
        const target = state.target;
        if (target.mode === 'recipe') return target.recipe;
        if (target.mode === 'preset') return (state.hello ? state.hello.presets : {})[target.preset] || target.preset;
        const [word, value] = {
            size: ['size', target.size],
            retention: ['retain', target.retention],
            rank: ['rank', target.rank],
        }[target.mode];
        return `${target.mode === 'rank' ? '' : `${state.options.scores},`}${word}=${Number(value.toFixed(4))}`;
    }

    function changedOptions(options = state.options) {
        const changed = {};
        for (const [name, value] of Object.entries(options)) if (value !== DEFAULTS[name]) changed[name] = value;
        return changed;
    }

    /* The plan of the present choice; null until it arrives. */
    function planNow() {
        return state.plan && state.plan.key === planKey() ? state.plan.result : null;
    }

    /* Why the present choice is not possible, as far as the page knows; '' where it is. */
    function refusal() {
        if (planNow()) return '';
        if (state.refusedPlan && state.refusedPlan.key === planKey()) return state.refusedPlan.message;
        const points = table();
        if (!points || inReach(points, state.target)) return '';
        return t('{size} cannot be reached: the smallest file is {least}.', {
            size: size(state.target.size * MIB),
            least: size(points[0].bytes),
        });
    }

    /* What the page knows about the result of the present choice: {bytes, retention, ranks, ...}, or null. */
    function estimate() {
        const known = analysis();
        const {target} = state;
        const plan = planNow();
        if (!known || !isTargetValid() || refusal()) return null;
        if (plan) return {...plan, bytes: plan.bytes_after, exact: true};
        if (target.mode === 'preset' && plainOptions()) {
            const preset = known.presets[target.preset];
            return preset && {...preset, blocks: blocksAt(known, target.preset)};
        }
        const points = table();
        return points && (target.mode === 'size' || target.mode === 'retention')
            ? points[pointFor(points, target)]
            : null;
    }

    /* A recipe is being checked, or a plan is on its way: the figures are those of an older choice. */
    function isPending() {
        const isChecked = state.target.mode !== 'recipe' || state.recipe.text === state.target.recipe;
        if (!analysis() || state.isNumberInvalid) return false;
        return isChecked ? isTargetValid() && !planNow() && !refusal() : true;
    }

    function blocksAt(known, preset) {
        const blocks = {};
        for (const [name, block] of Object.entries(known.blocks)) {
            blocks[name] = {old: block.old, kept: block.kept[preset]};
        }
        return blocks;
    }

    function choiceKey() {
        return JSON.stringify([state.current, chosenTarget(), changedOptions()]);
    }

    function planKey() {
        return `${state.epoch} ${choiceKey()}`;
    }

    /* The expected size of the result for a file of the library, in bytes; null where it is not known. */
    function expected(file) {
        const {mode, preset} = state.target;
        if (file.name === state.current) {
            const now = estimate();
            if (now) return now.bytes;
            if (refusal()) return null;
        }
        if (mode === 'preset' && plainOptions()) return file.predicted ? file.predicted[preset] : null;
        const known = state.analyses.get(file.name);
        if (!known || !known.table || !plainOptions() || !['size', 'retention'].includes(mode)) return null;
        return inReach(known.table, state.target) ? known.table[pointFor(known.table, state.target)].bytes : null;
    }

    /* The selected LoRAs of the library. */
    function selectedFiles() {
        return [...state.selected].map(name => state.files.get(name)).filter(Boolean);
    }

    /* Whether the target is about several LoRAs. */
    function isSelection() {
        return selectedFiles().length > 1;
    }

    /* Whether the expected size of a file is estimated from a sample of its layers. */
    function isEstimated(file) {
        return file.estimated === true && !state.analyses.has(file.name);
    }

    function isResizable(name) {
        const file = state.files.get(name);
        return Boolean(file) && !file.problem;
    }

    function chosenNames() {
        const ticked = [...state.selected].filter(name => state.files.has(name));
        return (ticked.length ? ticked : [state.current]).filter(isResizable);
    }

    /* The choice cannot be run: the recipe or number is invalid, or it is not possible for the only LoRA. */
    function isBlocked(names) {
        return !isTargetValid() || (names.length === 1 && names[0] === state.current && Boolean(refusal()));
    }

    function activeJobs() {
        return [...state.jobs.values()].filter(job => !ENDED.includes(job.state));
    }

    function ownActiveJobs() {
        return activeJobs().filter(job => state.ownJobs.has(job.id));
    }

    resizeLora.choice = {
        activeJobs,
        analysis,
        can,
        changedOptions,
        choiceKey,
        chosenNames,
        chosenRecipe,
        chosenTarget,
        estimate,
        expected,
        isBlocked,
        isEstimated,
        isPending,
        isSelection,
        isTargetValid,
        ownActiveJobs,
        plainOptions,
        planKey,
        planNow,
        refusal,
        selectedFiles,
        table,
    };
})((window.resizeLora = window.resizeLora || {}));
