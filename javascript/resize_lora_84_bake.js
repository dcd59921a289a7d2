/* Baking the LoRAs of a prompt into one. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.bake) return;

    const {sizes} = resizeLora.numbers;
    const {t} = resizeLora.words;
    const {errorText, messageText} = resizeLora.messages;
    const {button, chooser, el, input, labelled, later, primaryButton, quiet, quietLine, typeInto} =
        resizeLora.elements;
    const {state} = resizeLora.model;
    const {can, changedOptions} = resizeLora.choice;
    const {call} = resizeLora.wire;
    const {copyText, dialog, presetTargets, showError, targetParams, toast} = resizeLora.dialogs;
    const {follow} = resizeLora.jobs;
    const {resultButton, undo} = resizeLora.results;
    const {mainTab, openTab, promptArea, promptTabs} = resizeLora.prompt;

    function bakeButton() {
        return button(t('Bake my prompt…'), () => openBake(), {
            id: 'resize_lora_bake',
            'data-action': 'bake',
            title: t('Merge all LoRAs of a prompt into one file'),
        });
    }

    /* `begin` has a prompt and a target to begin with, in place of a prompt of the host. */
    function openBake(begin) {
        const tabs = can('prompt') && !begin ? promptTabs() : [];
        state.baking = bakeParts(tabs);
        Object.assign(state.baking, begin && {target: begin.target});
        if (begin) state.baking.prompt.value = begin.prompt;
        const {tab, prompt, tags, name, run} = state.baking;
        const places = tabs.map(one => [one, one]);
        const place = tabs.length > 1 && chooser('resize_lora_bake_tab', t('Prompt from'), places, tab, choosePrompt);
        const target = chooser('resize_lora_bake_target', t('Target'), bakeTargets(), state.baking.target, value => {
            state.baking.target = value;
            resizeLora.bakePlan.planSoon();
        });
        state.baking.box = dialog(t('Bake my prompt'), [
            quietLine(t('Merges these LoRAs, with their weights, into one file. The originals are kept.')),
            place ? labelled(t('Prompt from'), place) : [],
            labelled(t('Prompt'), prompt),
            tags,
            state.baking.plan,
            el('div', {class: 'resize-lora-bake-row'}, labelled(t('Target'), target), labelled(t('Name'), name), run),
        ]);
        state.baking.box.addEventListener('close', resizeLora.bakePlan.leavePlan);
        choosePrompt(tab);
        if (!tab) prompt.focus();
    }

    /* The elements of the dialog, and the tab whose prompt it begins with. */
    function bakeParts(tabs) {
        const hasTags = tab => /<(lora|lyco):/.test(promptArea(tab).value);
        const typeName = () => {
            state.baking.named = state.baking.name.value.trim() !== '';
        };
        const area = {id: 'resize_lora_bake_prompt', rows: '4', spellcheck: 'false', on: {input: () => readSoon()}};
        const list = {id: 'resize_lora_bake_tags', class: 'resize-lora-bake-tags', 'aria-live': 'polite'};
        return {
            tab: tabs.find(hasTags) || (tabs.length ? mainTab() : ''),
            target: '',
            named: false,
            box: null,
            plan: el('div', {id: 'resize_lora_bake_plan', class: 'resize-lora-bake-plan', 'aria-live': 'polite'}),
            planJob: null,
            asked: '', // the plan, as JSON
            prompt: el('textarea', area),
            tags: el('ul', list),
            name: input('text', 'resize_lora_bake_name', {on: {input: typeName}}),
            run: primaryButton(t('Bake'), startBake, {
                id: 'resize_lora_bake_run',
                'data-action': 'bake-run',
                disabled: true,
            }),
        };
    }

    function bakeTargets() {
        return [['', t('Not larger than its parts')], ['all', t('Keep all ranks')], ...presetTargets()];
    }

    const ALL_RANKS = 'rank=100000';

    /* The target of a bake as parameters of a call; null where the tab has an invalid recipe. */
    function goalOf(target) {
        return target === 'all' ? {recipe: ALL_RANKS} : targetParams(target);
    }

    function choosePrompt(tab) {
        state.baking.tab = tab;
        if (tab) state.baking.prompt.value = promptArea(tab).value;
        readPrompt();
    }

    const readSoon = later(() => readPrompt(), 250);

    async function readPrompt() {
        const mine = state.baking;
        const prompt = mine.prompt.value;
        try {
            const found = await call('read_prompt', {prompt});
            if (prompt === mine.prompt.value) showTags(mine, found);
        } catch (error) {
            showError(error);
        }
    }

    /* What will happen to each tag, before anything is written. */
    function showTags(mine, found) {
        const texts = [found.message, ...found.warnings.map(one => one.text)].filter(Boolean).map(messageText);
        const faults = texts.map(text => el('li', {class: 'resize-lora-fault'}, text));
        mine.tags.replaceChildren(...found.tags.map(tagLine), ...faults);
        mine.run.disabled = !found.ok || found.warnings.some(one => one.kind === 'other_family');
        if (!mine.named) mine.name.value = found.name;
        resizeLora.bakePlan.planSoon();
    }

    function tagLine({text, troubles: errors, remarks}) {
        const fate = errors.length ? t('unchanged') : t('will be baked');
        const notes = quiet([fate, ...[...errors, ...remarks].map(messageText)].join(' · '));
        return el('li', {class: errors.length ? 'resize-lora-bake-left' : ''}, el('code', null, text), ' ', notes);
    }

    async function startBake() {
        const {box, tab, prompt, name, target, run: press} = state.baking;
        const goal = goalOf(target);
        if (!goal) return;
        press.disabled = true;
        try {
            const {job} = await call('bake', {
                prompt: prompt.value,
                name: name.value.trim(),
                ...goal,
                options: changedOptions(),
            });
            state.bakedFrom.set(job, {tab, prompt: prompt.value});
            follow(job, toast(`${name.value}: ${t('queued')}`, {stays: true}));
            box.close();
        } catch (error) {
            press.disabled = false;
            state.baking.tags.append(el('li', {class: 'resize-lora-fault', role: 'alert'}, errorText(error)));
        }
    }

    function originOf(result) {
        const isOf = job => job.kind === 'bake' && job.result && job.result.result === result.result;
        const found = [...state.jobs.values()].find(isOf);
        const unknown = {tab: can('prompt') ? mainTab() : '', prompt: result.baked.join(' ')};
        return (found && state.bakedFrom.get(found.id)) || unknown;
    }

    function bakedAction(result) {
        return can('prompt')
            ? resultButton(result, t('Replace in the prompt'), () => replaceInPrompt(result), 'replace')
            : resultButton(result, t('Copy prompt'), () => copyBaked(result), 'copy-prompt');
    }

    function offerBaked(result, note) {
        note.setText(`${result.output} ${sizes(result.bytes_before, result.bytes_after)}`);
        const leave = () => {
            note.close();
            undo(result.result);
        };
        note.offer(bakedAction(result), resultButton(result, t('Undo'), leave, 'undo'));
    }

    /* Puts the baked tag in place of the others, in the prompt's present text. */
    async function replaceInPrompt(result) {
        const {tab} = originOf(result);
        const area = promptArea(tab);
        if (!area) {
            await copyBaked(result);
            return;
        }
        try {
            const made = await call('bake_into', {result: result.result, prompt: area.value});
            if (made.replaced) showBaked(tab, area, made.prompt);
            else toast(t('The prompt no longer contains these tags: {tag}', {tag: made.tag}), {stays: true});
        } catch (error) {
            showError(error);
        }
    }

    function showBaked(tab, area, prompt) {
        typeInto(area, prompt);
        openTab(`tab_${tab}`);
        area.focus();
    }

    async function copyBaked(result) {
        try {
            await copyText((await call('bake_into', {result: result.result, prompt: originOf(result).prompt})).prompt);
        } catch (error) {
            showError(error);
        }
    }

    resizeLora.bake = {bakeButton, bakedAction, goalOf, offerBaked, openBake};
})((window.resizeLora = window.resizeLora || {}));
