/* Plots of the target: retention against size, and rank by block. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.plots) return;

    const {MIB, digits, percent, round, size} = resizeLora.numbers;
    const {t} = resizeLora.words;
    const {LETTER_WIDTH, overlap, shareTicks, sizeTicks} = resizeLora.curve;
    const {draw, el} = resizeLora.elements;
    const {PRESETS, PRESET_WORDS, state} = resizeLora.model;
    const {analysis, estimate, isPending, table} = resizeLora.choice;
    const {askPlanSoon} = resizeLora.analysis;
    const {setPoint} = resizeLora.slider;

    const parts = {plot: null, plotKey: null, plotOf: null, bars: null, barsKey: null, barsOf: null};

    const PLOT = {height: 170, left: 38, right: 12, top: 12, bottom: 26};

    function drawPlots() {
        if (!parts.plot || !parts.plot.clientWidth) return;
        drawPlot();
        drawBars();
    }

    function plotScale() {
        const known = analysis();
        const width = parts.plot.clientWidth;
        if (!known || !known.table) return null;
        const points = known.table;
        const most = Math.max(known.bytes, points[points.length - 1].bytes);
        const least = points[0].retention;
        const x = bytes => PLOT.left + ((width - PLOT.left - PLOT.right) * bytes) / most;
        const y = kept => PLOT.top + ((PLOT.height - PLOT.top - PLOT.bottom) * (1 - kept)) / Math.max(1e-6, 1 - least);
        return {known, points, width, most, least, x, y};
    }

    function framePlots() {
        const on = {pointerdown: plotDown, pointermove: plotMove};
        parts.plot = el('div', {class: 'resize-lora-plot', id: 'resize_lora_plot', on});
        parts.bars = el('div', {class: 'resize-lora-bars', id: 'resize_lora_bars'});
        new ResizeObserver(drawPlots).observe(parts.plot);
        return [parts.plot, parts.bars];
    }

    function drawPlot() {
        const scale = plotScale();
        const now = estimate();
        const isOld = !now && isPending();
        parts.plot.classList.toggle('resize-lora-stale', isOld && Boolean(parts.plotKey));
        const key = JSON.stringify([state.current, state.epoch, scale && scale.width, Boolean(scale), plotText(), now]);
        if (parts.plotKey === key || (isOld && scale && parts.plotOf === state.current)) return;
        parts.plotKey = key;
        parts.plotOf = state.current;
        const empty = el('p', {class: 'resize-lora-quiet resize-lora-empty'}, plotText());
        parts.plot.replaceChildren(scale ? curvePlot(scale, now) : empty);
    }

    function curvePlot(scale, now) {
        const foot = PLOT.height - PLOT.bottom;
        const source = scale.x(scale.known.bytes);
        const points = scale.points.map(point => [point.bytes, point.retention]);
        return draw(
            'svg',
            {width: String(scale.width), height: String(PLOT.height), role: 'img', 'aria-label': plotLabel(now)},
            axes({...scale, left: PLOT.left, right: PLOT.right, labels: foot + 17}, 3, 4),
            draw('line', {x1: source, x2: source, y1: PLOT.top, y2: foot, class: 'resize-lora-source'}),
            draw('polyline', {points: pointsText(points, scale), class: 'resize-lora-curve'}),
            presetMarks(scale),
            now ? choiceMark(scale, now) : [],
            presetNames(scale, now),
        );
    }

    function plotLabel(now) {
        if (!now) return t('Retention against size');
        const values = {size: size(now.bytes), retention: percent(now.retention)};
        return t('Retention against size. Selected: {size}, {retention}', values);
    }

    /* Points [bytes, retention] as the attribute `points` of a line. */
    function pointsText(points, {x, y}) {
        return points.map(([bytes, kept]) => `${x(bytes).toFixed(1)},${y(kept).toFixed(1)}`).join(' ');
    }

    function plotText() {
        const file = state.files.get(state.current);
        if (!file || file.problem) return '';
        return state.analysing.has(state.current)
            ? t('analysing…')
            : t('Analyse the LoRA to plot retention against size.');
    }

    /* The axes of retention against size: a grid line for each share, figures below for sizes that have room. */
    function axes({width, left, right, labels, least, most, x, y}, shares, sizes) {
        const line = share =>
            draw('line', {x1: left, x2: width - right, y1: y(share), y2: y(share), class: 'resize-lora-grid'});
        const figure = (text, px, py, anchor) => draw('text', {x: px, y: py, 'text-anchor': anchor}, text);
        const rows = shareTicks(least, shares).map(share => [
            line(share),
            figure(`${round(100 * share, 1)}%`, left - 6, y(share) + 4, 'end'),
        ]);
        const columns = sizeTicks(most, sizes)
            .filter(value => x(value * MIB) < width - right - 34)
            .map(value => figure(String(round(value, 2)), x(value * MIB), labels, 'middle'));
        return [rows, columns, figure('MB', width - right, labels, 'end')];
    }

    function presetMarks({known, x, y}) {
        const marks = PRESETS.map(name => known.presets[name]).filter(Boolean);
        const circles = marks.map(preset => draw('circle', {cx: x(preset.bytes), cy: y(preset.retention), r: 4}));
        return draw('g', {class: 'resize-lora-mark'}, circles);
    }

    /* Drawn last, so that no line crosses them. Presets with the same result share a label, one at the foot is moved
       above the axis, and one that would overlap another or the figures of the choice is left out. */
    function presetNames({known, x, y, width}, now) {
        const foot = PLOT.height - PLOT.bottom - 2;
        const isFree = label => !now || !overlapsChoice({x, width}, now, label);
        const labels = samePresets(known.presets).map(names => {
            const preset = known.presets[names[0]];
            const text = names.map(name => t(PRESET_WORDS[name])).join(', ');
            return {left: x(preset.bytes) + 7, top: Math.min(y(preset.retention) + 13, foot), text};
        });
        const near = labels.filter(isFree);
        const free = near.filter((label, i) => !near.slice(0, i).some(other => overlap(label, other)));
        const texts = free.map(({left, top, text}) => draw('text', {x: left, y: top}, text));
        return draw('g', {class: 'resize-lora-preset-names'}, texts);
    }

    /* The names of presets, those with the same result together. */
    function samePresets(presets) {
        const places = new Map();
        for (const name of PRESETS.filter(one => presets[one])) {
            const at = `${presets[name].bytes} ${presets[name].retention}`;
            places.set(at, [...(places.get(at) || []), name]);
        }
        return [...places.values()];
    }

    function overlapsChoice(scale, now, {left, top, text}) {
        const choice = choiceText(scale, now);
        const wide = choice.text.length * LETTER_WIDTH;
        const from = choice.end ? choice.x - wide : choice.x;
        return Math.abs(top - choice.y) < 13 && left < from + wide && from < left + text.length * LETTER_WIDTH;
    }

    function choiceText({x, width}, now) {
        const cx = x(now.bytes);
        const end = cx > width * 0.6;
        const text = `${size(now.bytes)}, ${percent(now.retention)}`;
        return {x: end ? cx - 6 : cx + 6, y: PLOT.height - PLOT.bottom - 7, end, text};
    }

    function choiceMark(scale, now) {
        const cx = scale.x(now.bytes);
        const cy = scale.y(now.retention);
        const {x, y, end, text} = choiceText(scale, now);
        return draw(
            'g',
            {class: 'resize-lora-choice'},
            draw('path', {d: `M${cx},${PLOT.height - PLOT.bottom}V${cy}H${PLOT.left}`}),
            draw('circle', {cx, cy, r: 6}),
            draw('text', {x, y, 'text-anchor': end ? 'end' : 'start'}, text),
        );
    }

    function plotDown(event) {
        if (event.button === 0) plotTo(event);
    }

    function plotMove(event) {
        if (event.buttons === 1 && event.pointerType === 'mouse') plotTo(event);
    }

    function plotTo(event) {
        const scale = plotScale();
        const points = table();
        if (!scale || !points) return;
        const x = event.clientX - parts.plot.getBoundingClientRect().left;
        const distance = point => Math.abs(scale.x(point.bytes) - x);
        const nearest = points.reduce((best, point) => (distance(point) < distance(best) ? point : best));
        if (state.meaning === 'rank') state.meaning = 'size';
        setPoint(nearest);
        askPlanSoon();
    }

    const BARS = {height: 126, top: 14, bottom: 48};

    function drawBars() {
        const now = estimate();
        const blocks = now && now.blocks;
        const isOld = !blocks && (Boolean(now) || isPending());
        const width = parts.bars.clientWidth;
        const key = JSON.stringify([state.current, width, blocks, isOld]);
        parts.bars.classList.toggle('resize-lora-stale', isOld);
        if (parts.barsKey === key || (isOld && parts.barsOf === state.current)) return;
        parts.barsKey = key;
        parts.barsOf = state.current;
        parts.bars.replaceChildren(...(blocks ? [barPlot(Object.entries(blocks), width)] : []));
    }

    /* One column for each block, in the model's order: the outline is the old rank, the filled part what is kept. */
    function barPlot(blocks, width) {
        const most = Math.max(1, ...blocks.map(([, block]) => block.old));
        const step = width / blocks.length;
        const ranks = blocks.map(([name, {old, kept}]) => `${name} ${Math.round(old)} → ${Math.round(kept || 0)}`);
        const label = `${t('Mean rank by block, before and after')}: ${ranks.join(', ')}`;
        const own = {width: String(width), height: String(BARS.height), role: 'img', 'aria-label': label};
        return draw(
            'svg',
            own,
            blocks.map(([name, block], i) => bar(name, block, i, step, most)),
        );
    }

    function bar(name, {old, kept}, i, step, most) {
        const full = BARS.height - BARS.top - BARS.bottom;
        const foot = BARS.height - BARS.bottom;
        const width = Math.max(2, Math.min(28, step - 3));
        const before = (full * old) / most;
        const after = (full * (kept || 0)) / most;
        const left = (i * step + 1 + (step - width) / 2).toFixed(1);
        const number = {x: width / 2, y: foot - after - 3, 'text-anchor': 'middle', class: 'resize-lora-bar-number'};
        const label = {transform: `translate(${width / 2 + 4},${foot + 6}) rotate(-90)`, 'text-anchor': 'end'};
        return draw(
            'g',
            {transform: `translate(${left},0)`},
            draw('title', null, `${name}: ${digits(old)} → ${digits(kept || 0)}`),
            draw('rect', {x: 0, y: foot - before, width, height: before, class: 'resize-lora-bar-old'}),
            draw('rect', {x: 0, y: foot - after, width, height: after, class: 'resize-lora-bar'}),
            step > 15 ? draw('text', number, String(Math.round(kept || 0))) : [],
            step > 9 ? draw('text', label, name) : [],
        );
    }

    resizeLora.plots = {axes, drawPlots, framePlots, pointsText};
})((window.resizeLora = window.resizeLora || {}));
