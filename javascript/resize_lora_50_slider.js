/* The slider of the target, and its number. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.slider) return;

    const {MIB, digits, percent, round} = resizeLora.numbers;
    const {t} = resizeLora.words;
    const {pointFor} = resizeLora.curve;
    const {chooser, el, input, later, setText} = resizeLora.elements;
    const {state} = resizeLora.model;
    const {analysis, estimate, refusal, table} = resizeLora.choice;
    const {askPlan, askPlanSoon} = resizeLora.analysis;
    const {drawRows} = resizeLora.rows;

    const parts = {meaning: null, slider: null, number: null, unit: null};

    const UNITS = {size: 'MB', retention: '%', rank: ''};

    function frameSlider() {
        const meanings = [
            ['size', t('Size')],
            ['retention', t('Retention')],
            ['rank', t('Rank')],
        ];
        const label = {'aria-label': t('Target')};
        const range = {min: '0', max: '200', step: '1', on: {input: slide, change: () => askPlan()}};
        const number = {step: 'any', on: {input: typeNumber, change: resetNumber}};
        parts.meaning = chooser('resize_lora_meaning', t('Resize by'), meanings, state.meaning, setMeaning);
        parts.slider = input('range', 'resize_lora_slider', {...range, ...label});
        parts.number = input('number', 'resize_lora_number', {...number, ...label});
        parts.unit = el('span', {class: 'resize-lora-quiet resize-lora-unit'});
        const field = el('span', {class: 'resize-lora-number'}, parts.number, parts.unit);
        return el('div', {class: 'resize-lora-slider'}, parts.meaning, parts.slider, field);
    }

    /* Changes what the slider sets, and converts the present choice to it. */
    function setMeaning(meaning) {
        const now = estimate();
        state.meaning = meaning;
        const value = now && converted(now, meaning);
        resizeLora.target.setTarget({mode: meaning, ...(value ? {[meaning]: value} : {})});
    }

    function converted(now, meaning) {
        if (meaning === 'size') return round(now.bytes / MIB, 2);
        return meaning === 'retention' ? round(now.retention, 4) : Math.max(1, now.ranks[2]);
    }

    function slide() {
        const at = Number(parts.slider.value);
        const points = table();
        if (state.meaning === 'rank') resizeLora.target.setTarget({mode: 'rank', rank: at}, true);
        else if (points) setPoint(points[Math.min(at, points.length - 1)]);
    }

    /* Size in steps of 0.01 MB, rounded up so that the point itself still fits. */
    function setPoint(point) {
        const value = state.meaning === 'size' ? Math.ceil((point.bytes / MIB) * 100) / 100 : point.retention;
        resizeLora.target.setTarget({mode: state.meaning, [state.meaning]: value}, true);
    }

    /* A number is the target as soon as it is typed, so that no button works with the one before. */
    function typeNumber() {
        const value = Number(parts.number.value);
        const most = {size: 1e6, retention: 100, rank: 1e5}[state.meaning];
        if (value > 0 && value <= most) {
            const exact = {size: value, retention: value / 100, rank: Math.max(1, Math.round(value))}[state.meaning];
            resizeLora.target.setTarget({mode: state.meaning, [state.meaning]: exact}, true);
            askPlanAfterTyping();
            return;
        }
        state.isNumberInvalid = true;
        resizeLora.target.drawTarget();
        drawRows();
    }

    const askPlanAfterTyping = later(askPlan, 300);

    /* The field lost the focus: an invalid number is replaced by the target. */
    function resetNumber() {
        state.isNumberInvalid = false;
        resizeLora.target.drawTarget();
        drawRows();
        askPlanSoon();
    }

    function drawSlider(now) {
        const points = table();
        const {meaning} = state;
        const {slider} = parts;
        const value = sliderValue(now);
        parts.meaning.value = meaning;
        slider.min = meaning === 'rank' ? '1' : '0';
        const most = String(sliderMost(points));
        if (slider.max !== most) slider.max = most;
        slider.disabled = meaning !== 'rank' && !points;
        const at = sliderPlace(points, value);
        if (at != null && Number(slider.value) !== at) slider.value = String(at);
        slider.setAttribute('aria-valuetext', refusal() || numberText(meaning, value));
        setText(parts.unit, UNITS[meaning]);
        drawNumber(value);
    }

    /* A number that is being typed is left alone. */
    function drawNumber(value) {
        const {target, meaning} = state;
        const {number} = parts;
        const isTarget = target.mode === meaning;
        number.setAttribute('aria-invalid', String(state.isNumberInvalid || (isTarget && refusal() !== '')));
        if (document.activeElement === number && (isTarget || state.isNumberInvalid)) return;
        const text = fieldText(meaning, value);
        if (number.value !== text) number.value = text;
    }

    /* The current number of the slider: set by hand, or converted from another kind of target. */
    function sliderValue(now) {
        const {target, meaning} = state;
        if (target.mode === meaning) return target[meaning];
        return now ? {size: now.bytes / MIB, retention: now.retention, rank: now.ranks[2]}[meaning] : null;
    }

    function sliderMost(points) {
        if (state.meaning !== 'rank') return points ? points.length - 1 : 200;
        return analysis() ? analysis().ranks[2] : 128;
    }

    function sliderPlace(points, value) {
        if (state.meaning === 'rank') return value;
        return points && value != null ? pointFor(points, {mode: state.meaning, [state.meaning]: value}) : 0;
    }

    function fieldText(meaning, value) {
        if (value == null) return '';
        return String(meaning === 'retention' ? round(100 * value, 2) : round(value, 2));
    }

    function numberText(meaning, value) {
        if (value == null) return '';
        return {size: `${digits(value)} MB`, retention: percent(value), rank: String(value)}[meaning];
    }

    resizeLora.slider = {UNITS, drawSlider, frameSlider, setPoint};
})((window.resizeLora = window.resizeLora || {}));
