/* Advanced options. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.advanced) return;

    const {t} = resizeLora.words;
    const {scoreItems} = resizeLora.text;
    const {checkbox, chooser, el, input, labelled, quietLine} = resizeLora.elements;
    const {keep, kept} = resizeLora.storage;
    const {DEFAULTS, state} = resizeLora.model;
    const {can} = resizeLora.choice;
    const {askPlanSoon} = resizeLora.analysis;
    const {drawRows} = resizeLora.rows;

    const parts = {scores: {}}; // name -> input

    const LIMITS = ['min_rank', 'max_rank', 'max_conv_rank'];

    /* `recipe`: the recipe field. */
    function frameAdvanced(recipe) {
        const words = state.hello.words || {scores: {}, limits: {}};
        const scores = Object.entries(words.scores).map(([name, hint]) => scoreField(name, hint, '0.1'));
        const limits = LIMITS.map(name => scoreField(name, words.limits[name], '1'));
        return el(
            'details',
            {
                class: 'resize-lora-advanced',
                id: 'resize_lora_advanced',
                open: kept('advanced') === true,
                on: {toggle: event => keep('advanced', event.target.open)},
            },
            el('summary', null, t('Advanced')),
            recipe,
            group(t('Score weights'), scores),
            group(t('Limits'), limits),
            group(t('New file'), fileFields()),
            can('generate') ? group(t('Compare'), baselineField()) : [],
        );
    }

    function group(title, fields) {
        return el('fieldset', null, el('legend', null, title), fields);
    }

    function scoreField(name, hint, step) {
        const value = scoreItems(DEFAULTS.scores)[name];
        const field = input('number', `resize_lora_${name}`, {min: '0', step, on: {change: readScores}});
        if (value !== undefined) field.value = String(value);
        parts.scores[name] = field;
        return labelled(name, field, hint);
    }

    function fileFields() {
        const dtypes = [
            ['16', 'float16'],
            ['bf16', 'bfloat16'],
            ['32', 'float32'],
            ['8', 'float8'],
            ['same', t('unchanged')],
        ];
        const names = [
            ['same', t('unchanged')],
            ['kohya', 'kohya'],
        ];
        return [
            optionChooser('dtype', t('Dtype'), dtypes),
            optionChooser('naming', t('Key format'), names),
            strengthField(),
            suffixField(),
            folderField(),
            checkbox('resize_lora_sidecars', t('Copy preview and description'), state.options.sidecars, checked =>
                setOption('sidecars', checked),
            ),
        ];
    }

    function optionChooser(name, text, choices) {
        const set = value => setOption(name, value);
        return labelled(text, chooser(`resize_lora_${name}`, text, choices, state.options[name], set));
    }

    function suffixField() {
        const on = {change: () => setOption('suffix', field.value)};
        const field = input('text', 'resize_lora_suffix', {value: state.options.suffix, on});
        return labelled(t('File name suffix'), field, '{size} {retention} {rank}');
    }

    function strengthField() {
        const on = {change: () => setOption('rescale', Number(field.value) > 0 ? Number(field.value) : 1)};
        const field = input('number', 'resize_lora_rescale', {min: '0.01', step: '0.05', value: '1', on});
        return labelled(t('Strength'), field, t('Multiplier that is baked into the new file'));
    }

    function baselineField() {
        const text = t('Also render without the LoRA, as a baseline');
        return checkbox('resize_lora_without', text, state.withBaseline, checked => {
            state.withBaseline = checked;
        });
    }

    function folderField() {
        if (state.hello.remote) {
            return quietLine(
                t('Choosing an output folder is disabled because this server is reachable from other machines.'),
            );
        }
        const on = {change: () => setOption('folder', field.value.trim())};
        const field = input('text', 'resize_lora_folder', {placeholder: t('next to the source'), on});
        return labelled(t('Subfolder'), field);
    }

    function readScores() {
        const items = Object.entries(parts.scores).filter(([, field]) => Number(field.value) > 0);
        const text = items.map(([name, field]) => `${name}=${Number(field.value)}`).join(',');
        setOption('scores', text || DEFAULTS.scores);
    }

    function setOption(name, value) {
        state.options[name] = value;
        resizeLora.target.drawTarget();
        drawRows();
        askPlanSoon();
    }

    resizeLora.advanced = {frameAdvanced};
})((window.resizeLora = window.resizeLora || {}));
