/* The right side where several LoRAs are selected: totals, the curve of the sum, and outliers. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.selection) return;

    const {count, percent, saving, size, sizes} = resizeLora.numbers;
    const {plural, t} = resizeLora.words;
    const {gainOf} = resizeLora.filter;
    const {pointFor} = resizeLora.curve;
    const {outliers, presetBytes, sumCurve, totals} = resizeLora.totals;
    const {button, draw, el, quiet, quietLine, show} = resizeLora.elements;
    const {PRESET_WORDS, state} = resizeLora.model;
    const {expected, isSelection, plainOptions, selectedFiles} = resizeLora.choice;
    const {axes, pointsText} = resizeLora.plots;

    const parts = {box: null, figures: null, plot: null, outliers: null, key: ''};

    const PLOT = {height: 190, left: 38, right: 12, top: 14, bottom: 26};

    function frameSelection() {
        parts.figures = el('div', {class: 'resize-lora-sum-figures', role: 'status'});
        parts.plot = el('div', {id: 'resize_lora_sum_plot', class: 'resize-lora-sum-plot'});
        parts.outliers = el('ul', {id: 'resize_lora_outliers', class: 'resize-lora-outliers'});
        const own = {id: 'resize_lora_selection', class: 'resize-lora-selection', hidden: true};
        parts.box = el('div', own, parts.figures, parts.plot, parts.outliers);
        new ResizeObserver(drawSelection).observe(parts.plot);
        return parts.box;
    }

    function resizable() {
        return selectedFiles().filter(file => !file.problem);
    }

    /* The totals of a preset, as text. */
    function presetText(name) {
        if (!plainOptions()) return '–';
        const all = totals(resizable(), file => presetBytes(file, name));
        if (!all.known) return '–';
        return `${all.isEstimated ? '≈ ' : ''}${size(all.after)}`;
    }

    /* What a preset frees, and of how many LoRAs that is not known. */
    function presetNote(name) {
        const all = totals(resizable(), file => presetBytes(file, name));
        if (!plainOptions() || !all.known) return '';
        const unknown = all.unknown ? ` · ${t('{n} unknown', {n: count(all.unknown)})}` : '';
        return t('frees {size}', {size: size(all.before - all.after)}) + unknown;
    }

    function drawSelection() {
        if (!parts.box) return;
        show(parts.box, isSelection());
        if (!isSelection()) {
            parts.key = '';
            return;
        }
        const files = resizable();
        const width = parts.plot.clientWidth;
        const now = files.map(file => [file.name, file.bytes, file.predicted, file.estimated, expected(file)]);
        const key = JSON.stringify([width, now, state.target, state.epoch, state.analyses.size, plainOptions()]);
        if (key === parts.key) return;
        parts.key = key;
        drawFigures(files);
        parts.plot.replaceChildren(sumPlot(files, width));
        const found = outliers(files, file => gainOf(file, expected), retentionOf);
        parts.outliers.replaceChildren(...found.map(outlierLine));
    }

    function drawFigures(files) {
        const all = totals(files, expected);
        const about = all.isEstimated ? '≈ ' : '';
        const figure = (name, text, value) =>
            el('div', null, quiet(text), el('span', {class: 'resize-lora-figure', 'data-figure': name}, value));
        const isKnown = all.known > 0;
        parts.figures.replaceChildren(
            figure('size', t('Size'), isKnown ? about + sizes(all.before, all.after) : '–'),
            figure('saved', t('Saved'), isKnown ? saving(all.before, all.after) : '–'),
            figure('frees', t('Frees'), isKnown ? about + size(all.before - all.after) : '–'),
            figure('known', t('Known'), t('{n} of {all}', {n: count(all.known), all: count(files.length)})),
        );
    }

    /* The weight retention of a file at the present target, where its analysis has it; else null. */
    function retentionOf(file) {
        const known = state.analyses.get(file.name);
        const {target} = state;
        if (!known || !plainOptions()) return null;
        if (target.mode === 'preset') return (known.presets[target.preset] || {}).retention ?? null;
        if (!known.table || !['size', 'retention'].includes(target.mode)) return null;
        return known.table[pointFor(known.table, target)].retention;
    }

    function sumPlot(files, width) {
        const tables = new Map([...state.analyses].map(([name, known]) => [name, known.table]));
        const sum = plainOptions() && width ? sumCurve(files, tables, state.hello.presets) : null;
        if (!sum) return quietLine(t('The sizes of these LoRAs are not known yet. Analyse them to see the sum.'));
        const label = t('Total size against the retention of each file');
        const scale = sumScale(sum, width);
        const own = {width, height: PLOT.height, role: 'img', 'aria-label': `${label}: ${marksText(sum)}`};
        const left = files.length - sum.files.length;
        const note = plural(
            left,
            '{n} LoRA is left out: its size is not known.',
            '{n} LoRAs are left out: their sizes are not known.',
        );
        return el(
            'div',
            null,
            draw('svg', own, axes(scale, 3, 4), sourceLine(scale), curveLine(sum, scale), presetMarks(sum, scale)),
            quiet(left ? `${label}. ${note}` : label),
        );
    }

    function marksText({marks}) {
        return marks.map(({name, bytes}) => `${t(PRESET_WORDS[name])} ${size(bytes)}`).join(', ');
    }

    function sumScale({points, marks, files}, width) {
        const {height, left, right, top, bottom} = PLOT;
        const before = files.reduce((all, file) => all + file.bytes, 0);
        const most = Math.max(before, ...points.map(point => point.bytes));
        const least = Math.min(...[...points, ...marks].map(point => point.retention), 0.95);
        const x = bytes => left + ((width - left - right) * bytes) / most;
        const y = kept => top + ((height - top - bottom) * (1 - kept)) / Math.max(1e-6, 1 - least);
        return {width, left, right, labels: height - bottom + 17, before, most, least, x, y};
    }

    function sourceLine({x, before}) {
        const end = PLOT.height - PLOT.bottom;
        return draw('line', {x1: x(before), x2: x(before), y1: PLOT.top, y2: end, class: 'resize-lora-source'});
    }

    function curveLine({points}, scale) {
        const pairs = points.map(point => [point.bytes, point.retention]);
        return draw('polyline', {points: pointsText(pairs, scale), class: 'resize-lora-curve'});
    }

    function presetMarks({marks}, {x, y, width}) {
        const groups = marks.map(({name, bytes, retention}) => {
            const isRight = x(bytes) > width * 0.6;
            const text = {
                x: x(bytes) + (isRight ? -8 : 8),
                y: Math.min(y(retention) + 13, PLOT.height - PLOT.bottom - 4),
                'text-anchor': isRight ? 'end' : 'start',
            };
            return draw(
                'g',
                {class: 'resize-lora-sum-mark', 'data-key': name},
                draw('circle', {cx: x(bytes), cy: y(retention), r: 4}),
                draw('text', text, `${t(PRESET_WORDS[name])} ${size(bytes)}`),
            );
        });
        return draw('g', {class: 'resize-lora-mark'}, groups);
    }

    function outlierLine([kind, file, value]) {
        const words = {most: t('Largest gain'), least: t('Smallest gain'), worst: t('Lowest retention')}[kind];
        const figure = kind === 'worst' ? percent(value) : size(value);
        const own = {class: 'resize-lora-link', 'data-action': 'reveal', 'data-key': kind, title: file.name};
        const find = () => resizeLora.picking.reveal(file.name);
        return el('li', null, quiet(words), button(file.name, find, own), el('span', null, figure));
    }

    resizeLora.selection = {drawSelection, frameSelection, presetNote, presetText};
})((window.resizeLora = window.resizeLora || {}));
