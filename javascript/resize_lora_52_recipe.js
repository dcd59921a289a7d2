/* The recipe field. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.recipe) return;

    const {t} = resizeLora.words;
    const {errorText, messageText} = resizeLora.messages;
    const {el, input, labelled, later} = resizeLora.elements;
    const {state} = resizeLora.model;
    const {chosenRecipe} = resizeLora.choice;
    const {call} = resizeLora.wire;
    const {askPlan} = resizeLora.analysis;
    const {drawRows} = resizeLora.rows;
    const {drawTotals} = resizeLora.library;

    const parts = {recipe: null, fault: null};

    function frameRecipe() {
        const hint = t('Scores, one selection method, and limits. Edit to change the target');
        const plain = {spellcheck: 'false', autocomplete: 'off', 'aria-describedby': 'resize_lora_fault'};
        const on = {input: typeRecipe, blur: resizeLora.target.drawTarget};
        parts.recipe = input('text', 'resize_lora_recipe', {...plain, on});
        parts.fault = el('p', {id: 'resize_lora_fault', class: 'resize-lora-fault', role: 'alert'});
        return el('div', null, labelled(t('Recipe'), parts.recipe, hint), parts.fault);
    }

    /* A recipe that is being typed is left alone. */
    function drawRecipe() {
        if (document.activeElement === parts.recipe && state.target.mode === 'recipe') return;
        const text = chosenRecipe();
        if (parts.recipe.value !== text) parts.recipe.value = text;
    }

    function clearFault() {
        parts.recipe.removeAttribute('aria-invalid');
        parts.fault.replaceChildren();
    }

    /* An answer about older text is ignored. */
    const checkRecipe = later(async () => {
        const {recipe} = state.target;
        const answer = await checkedRecipe(recipe);
        if (state.target.mode !== 'recipe' || recipe !== state.target.recipe) return;
        state.recipe = {text: recipe, ok: answer.ok};
        showFault(recipe, answer);
        resizeLora.target.drawTarget();
        drawRows();
        askPlan();
        resizeLora.shrinkPlan.readPlan();
    }, 150);

    function checkedRecipe(recipe) {
        if (!recipe) return {ok: false, message: '', column: 0};
        return call('check_recipe', {text: recipe}).catch(error => ({ok: false, message: errorText(error), column: 0}));
    }

    function typeRecipe() {
        state.target = {...state.target, mode: 'recipe', recipe: parts.recipe.value.trim()};
        resizeLora.target.drawTarget();
        drawRows();
        drawTotals();
        checkRecipe();
    }

    function showFault(text, answer) {
        parts.recipe.setAttribute('aria-invalid', String(!answer.ok));
        const place = answer.column ? `${text.slice(0, answer.column - 1)}▸${text.slice(answer.column - 1)}` : '';
        parts.fault.replaceChildren(...(answer.ok ? [] : [el('code', null, place), ` ${messageText(answer.message)}`]));
    }

    resizeLora.recipe = {clearFault, drawRecipe, frameRecipe};
})((window.resizeLora = window.resizeLora || {}));
