/* The target: presets, figures and warnings. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.target) return;

    const {count, percent, rankRange, saving, size, sizes} = resizeLora.numbers;
    const {t} = resizeLora.words;
    const {messageText} = resizeLora.messages;
    const {button, el, input, nameText, quiet, section, setName, setText, show} = resizeLora.elements;
    const {PRESETS, PRESET_WORDS, state} = resizeLora.model;
    const {
        analysis,
        estimate,
        isEstimated,
        isPending,
        isSelection,
        isTargetValid,
        plainOptions,
        refusal,
        selectedFiles,
        table,
    } = resizeLora.choice;
    const {cancel} = resizeLora.jobs;
    const {askPlanSoon} = resizeLora.analysis;
    const {drawRows} = resizeLora.rows;
    const {drawTotals} = resizeLora.library;
    const {UNITS, drawSlider, frameSlider} = resizeLora.slider;
    const {clearFault, drawRecipe, frameRecipe} = resizeLora.recipe;
    const {frameAdvanced} = resizeLora.advanced;

    const parts = {
        subject: null,
        subjectNote: null,
        stop: null,
        warnings: null,
        presets: null,
        figures: null,
        single: [], // what is about one LoRA
        figureSize: null,
        figureSaved: null,
        figureRetention: null,
        figureRanks: null,
        figureGone: null,
    };

    const FIGURES = ['figureSize', 'figureSaved', 'figureRetention', 'figureRanks', 'figureGone'];

    function frameTarget() {
        const box = section(t('Target'), 'target');
        const stop = () => cancel([state.analysing.get(state.current)]);
        const own = {class: 'resize-lora-warnings', id: 'resize_lora_warnings', 'aria-live': 'polite'};
        parts.subject = nameText('', {class: 'resize-lora-name resize-lora-subject-name', id: 'resize_lora_subject'});
        parts.subjectNote = quiet();
        parts.stop = button(t('Stop'), stop, {hidden: true});
        parts.warnings = el('ul', own);
        parts.single = [frameFigures(), parts.warnings, ...resizeLora.plots.framePlots()];
        box.append(
            el('div', {class: 'resize-lora-subject'}, parts.subject, parts.subjectNote, parts.stop),
            resizeLora.details.frameDetails(),
            framePresets(),
            resizeLora.fit.frameImages(),
            frameSlider(),
            resizeLora.selection.frameSelection(),
            resizeLora.intro.frameIntro(),
            ...parts.single,
            frameAdvanced(frameRecipe()),
        );
        return box;
    }

    function framePresets() {
        parts.presets = {};
        const own = {class: 'resize-lora-presets', role: 'radiogroup', 'aria-label': t('Preset')};
        return el('div', own, PRESETS.map(presetChoice));
    }

    function presetChoice(name) {
        const on = {change: () => setTarget({mode: 'preset', preset: name})};
        const radio = input('radio', `resize_lora_${name}`, {name: 'resize_lora_preset', on});
        const bytes = quiet('–');
        const note = quiet('', {class: 'resize-lora-quiet resize-lora-preset-note'});
        const text = el('span', {class: 'resize-lora-preset-name'}, t(PRESET_WORDS[name]));
        parts.presets[name] = {radio, bytes, note};
        return el('label', {'data-key': name}, radio, text, bytes, note);
    }

    function frameFigures() {
        const hint = t("Fraction of the LoRA's Frobenius norm that is kept");
        parts.figures = el(
            'div',
            {class: 'resize-lora-figures', role: 'status'},
            figure('figureSize', t('Size')),
            figure('figureSaved', t('Saved')),
            figure('figureRetention', t('Weight retention'), hint),
            figure('figureRanks', t('Ranks')),
            figure('figureGone', t('Layers removed')),
        );
        return parts.figures;
    }

    function figure(name, text, hint) {
        parts[name] = el('span', {class: 'resize-lora-figure', id: `resize_lora_${name}`}, '–');
        return el('div', {title: hint}, quiet(text), parts[name]);
    }

    /* Sets a target that does not come from the recipe field. */
    function setTarget(change, dragging) {
        state.target = {...state.target, ...change};
        state.isNumberInvalid = false;
        if (state.target.mode in UNITS) state.meaning = state.target.mode;
        clearFault();
        drawTarget();
        drawRows();
        drawTotals();
        if (!dragging || !table() || state.target.mode === 'rank') askPlanSoon();
    }

    function drawTarget() {
        if (!parts.presets) return;
        const file = state.files.get(state.current);
        const now = estimate();
        drawSubject(file);
        resizeLora.study.drawStudyHead();
        drawPresets(file);
        drawSlider(now);
        drawFigures(file, now);
        drawWarnings(file, now);
        drawRecipe();
        drawIntro();
        resizeLora.plots.drawPlots();
        resizeLora.selection.drawSelection();
        resizeLora.details.drawDetails();
        resizeLora.fit.drawImages();
        resizeLora.queue.drawActions();
    }

    /* What is about one LoRA gives way to the selection, and at the first visit to the introduction. */
    function drawIntro() {
        resizeLora.intro.drawIntro();
        const isHidden = isSelection() || resizeLora.intro.isIntroduced();
        parts.single.forEach(part => show(part, !isHidden));
    }

    function drawSubject(file) {
        const going = analysingText();
        const names = selectedFiles();
        if (isSelection()) setName(parts.subject, t('{n} LoRAs selected', {n: count(names.length)}));
        else setName(parts.subject, file ? file.name : t('Select a LoRA.'));
        setText(parts.subjectNote, file ? going : '');
        show(parts.stop, Boolean(going));
    }

    function analysingText() {
        if (!state.analysing.has(state.current)) return '';
        const job = state.jobs.get(state.analysing.get(state.current));
        return job && job.total ? `${t('analysing…')} ${job.done} / ${job.total}` : t('analysing…');
    }

    function drawPresets(file) {
        const {presetNote, presetText} = resizeLora.selection;
        for (const name of PRESETS) {
            const {radio, bytes, note} = parts.presets[name];
            radio.checked = state.target.mode === 'preset' && state.target.preset === name;
            setText(bytes, isSelection() ? presetText(name) : singleText(file, name));
            setText(note, isSelection() ? presetNote(name) : '');
        }
    }

    /* The size that a preset gives for the current LoRA. */
    function singleText(file, name) {
        const known = analysis();
        const predicted = (file && file.predicted) || {};
        const found = known ? (known.presets[name] || {}).bytes : predicted[name];
        if (!found || !plainOptions()) return '–';
        return `${isEstimated(file) ? '≈ ' : ''}${size(found)}`;
    }

    /* Until the new figures arrive, those of the older choice are shown as outdated; those of another LoRA are not. */
    function drawFigures(file, now) {
        const isOld = !now && isPending() && state.figuresOf === state.current;
        const {classList} = parts.figures;
        classList.toggle('resize-lora-stale', isOld);
        classList.toggle('resize-lora-guess', Boolean(now && !now.exact));
        parts.figures.setAttribute('aria-busy', String(isPending()));
        if (isOld) return;
        state.figuresOf = now ? state.current : null;
        const texts = now ? figureTexts(file.bytes, now) : [size(file && file.bytes), '–', '–', '–', '–'];
        FIGURES.forEach((name, i) => setText(parts[name], texts[i]));
    }

    function figureTexts(before, now) {
        const old = now.ranks_before || analysis().ranks;
        return [
            sizes(before, now.bytes),
            saving(before, now.bytes),
            percent(now.retention),
            `${rankRange(old)} → ${rankRange(now.ranks)}`,
            String(now.layers_gone),
        ];
    }

    function drawWarnings(file, now) {
        const texts = warnings(file, now);
        const shown = [...parts.warnings.children].map(item => item.firstChild.textContent);
        if (texts.join('\n') === shown.join('\n')) return;
        const ignored = foundWarnings(now).find(one => one.kind === 'ignored_text_encoders');
        const offer = ignored && button(t('Leave them out…'), () => leaveOut(file.name), {'data-action': 'leave-out'});
        const isIgnored = text => ignored && text === warningText(ignored);
        parts.warnings.replaceChildren(...texts.map(text => el('li', null, text, isIgnored(text) && [' ', offer])));
    }

    /* A merge of the LoRA alone, without its text encoder layers. */
    function leaveOut(name) {
        resizeLora.bake.openBake({prompt: `<lora:${name}:te=0:unet=1>`, target: 'all'});
    }

    function warningText(one) {
        return one.template ? t(one.template, one.values) : messageText(one.text);
    }

    /* Warnings before anything is written: those of the server, and while dragging those of the page. */
    function warnings(file, now) {
        if (!file) return [];
        const found = foundWarnings(now);
        const texts = [messageText(file.problem), state.analysisError, isTargetValid() ? refusal() : ''];
        texts.push(...found.map(warningText));
        if (now) texts.push(...(now.exact ? now.notes.map(messageText) : expectedWarnings(file, now, found)));
        return [...new Set(texts.filter(Boolean))];
    }

    function foundWarnings(now) {
        const known = (analysis() || {warnings: []}).warnings;
        return now && now.exact ? [...known.filter(one => one.kind === 'flat'), ...now.warnings] : known;
    }

    /* The warnings that the server will give for the exact figures, but for those that it gave. */
    function expectedWarnings(file, now, found) {
        const texts = [];
        const {floor} = state.hello;
        const isFound = kind => found.some(one => one.kind === kind);
        if (now.bytes >= file.bytes && !isFound('not_smaller')) texts.push(t('The new file would not be smaller.'));
        if (now.retention < floor && !isFound('low_retention')) {
            const values = {floor: percent(floor, 0)};
            texts.push(t('Weight retention is below {floor}: expect a visible difference.', values));
        }
        return texts;
    }

    resizeLora.target = {drawIntro, drawSubject, drawTarget, frameTarget, setTarget};
})((window.resizeLora = window.resizeLora || {}));
