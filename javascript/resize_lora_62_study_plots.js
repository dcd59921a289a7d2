/* Plots of the analysis of one LoRA: spectra, effective ranks, retention and bytes. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.studyPlots) return;

    const {percent, round, size} = resizeLora.numbers;
    const {plural, t} = resizeLora.words;
    const {draw, el, quiet, quietLine} = resizeLora.elements;
    const {axes, pointsText} = resizeLora.plots;

    const STUDY_WORDS = {
        all: 'all layers',
        'time embedding': 'time embedding',
        'cross-attention': 'cross-attention',
        'self-attention': 'self-attention',
        'high-level blocks': 'high-level blocks',
        convolutions: 'convolutions',
        'attention K': 'attention K',
        'attention Q': 'attention Q',
        'text encoders': 'text encoders',
    };

    const DASHES = ['', '7 3', '2 3', '9 3 2 3', '1 2', '12 4', '5 2 1 2 1 2', '3 6', '14 3 3 3', '6 6'];

    const SPECTRUM = {width: 200, height: 96, foot: 78}; // pixels, as in those below
    const HEAT = {left: 58, top: 74, row: 21};
    const CURVES = {height: 250, left: 46, right: 12, top: 8, bottom: 30};
    const BAR_LIST = {left: 108, right: 74, row: 20};

    /* One small plot for each group of layers: its spectrum, and a dashed line at its effective rank. */
    function spectraPlot({groups}) {
        return el('div', {class: 'resize-lora-spectra'}, groups.map(spectrumPlot));
    }

    function spectrumPlot({name, layers, spectrum, effective_rank: rank, top_energy: energy}) {
        const {width, height, foot} = SPECTRUM;
        const title = t(STUDY_WORDS[name] || name);
        const x = index => 6 + ((width - 12) * index) / Math.max(1, spectrum.length - 1);
        const y = value => 6 + (foot - 6) * (1 - value);
        const line = spectrum.map((value, index) => `${x(index).toFixed(1)},${y(value).toFixed(1)}`).join(' ');
        const area = `${x(0)},${foot} ${line} ${x(spectrum.length - 1)},${foot}`;
        const at = x(Math.min(spectrum.length, rank) - 1);
        const figures = {rank: round(rank, 1), share: percent(energy, 0)};
        const summary = t('effective rank {rank}, first value {share}', figures);
        return el(
            'div',
            null,
            el('span', null, `${title} (${layers})`),
            draw(
                'svg',
                {viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': `${title}: ${summary}`},
                draw('line', {x1: 6, x2: width - 6, y1: foot, y2: foot, class: 'resize-lora-grid'}),
                draw('polygon', {points: area, class: 'resize-lora-area'}),
                draw('polyline', {points: line, class: 'resize-lora-curve'}),
                draw('line', {x1: at, x2: at, y1: 22, y2: foot, class: 'resize-lora-source'}),
                draw('text', {x: 6, y: height - 3}, '1'),
                draw('text', {x: width - 6, y: height - 3, 'text-anchor': 'end'}, String(spectrum.length)),
            ),
            quiet(summary),
        );
    }

    /* A table of tinted cells: the stronger the tint, the larger the number in it. */
    function heatMap(result, width) {
        const {blocks, types, effective_rank: ranks} = result;
        const {left, top, row} = HEAT;
        const column = Math.min(84, (Math.max(width, 480) - left) / types.length);
        const tint = tintOf(ranks.flat().filter(value => value != null));
        const cells = ranks.flatMap((line, i) =>
            line.map((value, j) => (value == null ? null : heatCell(result, i, j, column, tint(value)))),
        );
        const heads = types.map((type, j) => {
            const transform = `translate(${left + (j + 0.5) * column} ${top - 8}) rotate(-38)`;
            return draw('text', {transform}, t(type));
        });
        const names = blocks.map((block, i) =>
            draw('text', {x: left - 6, y: top + i * row + 15, 'text-anchor': 'end'}, block),
        );
        const area = {width: left + types.length * column + 34, height: top + blocks.length * row + 4};
        const label = t('Effective rank by block and layer type');
        const map = draw('svg', {...area, role: 'img', 'aria-label': label}, heads, names, cells);
        return el('div', {class: 'resize-lora-wide', tabindex: '0'}, map);
    }

    /* Value -> per cent of tint. Ranks that are nearly equal look equal. */
    function tintOf(values) {
        const most = Math.max(...values, 1e-9);
        const least = Math.min(...values, most);
        return value => 4 + (56 * (value - least)) / Math.max(most / 10, most - least);
    }

    function heatCell({blocks, types, effective_rank: ranks, layers}, i, j, column, tint) {
        const {left, top, row} = HEAT;
        const rank = round(ranks[i][j], 1);
        const values = {block: blocks[i], type: t(types[j]), rank};
        const one = '{block}, {type}: effective rank {rank} in {n} layer';
        const many = '{block}, {type}: effective rank {rank} in {n} layers';
        const place = {x: left + j * column, y: top + i * row, width: column - 1, height: row - 1};
        const style = `--resize-lora-share: ${tint.toFixed(0)}%`;
        const middle = {x: left + (j + 0.5) * column, y: top + i * row + 15, 'text-anchor': 'middle'};
        return draw(
            'g',
            null,
            draw('title', null, plural(layers[i][j], one, many, values)),
            draw('rect', {...place, class: 'resize-lora-cell', style}),
            draw('text', {...middle, class: 'resize-lora-number'}, column > 30 ? String(rank) : ''),
        );
    }

    /* One line for each method, with its own dashes. The legend marks the one under the pointer or with the focus. */
    function curvesPlot({curves}, width) {
        const scale = curvesScale(
            curves.flatMap(curve => curve.points),
            width,
        );
        if (!scale) return quietLine(t('All layers of this LoRA are zero.'));
        const lines = curves.map((curve, i) =>
            draw('polyline', {points: pointsText(curve.points, scale), ...dashes(i)}),
        );
        const mark = at => lines.forEach((line, i) => line.classList.toggle('resize-lora-marked', i === at));
        mark(0);
        const legend = curves.map((curve, i) => legendEntry(curve.name, i, () => mark(i)));
        const label = t('Retention against size, by selection method');
        const own = {width, height: CURVES.height, role: 'img', 'aria-label': label};
        return [draw('svg', own, axes(scale, 4, 5), lines), el('div', {class: 'resize-lora-legends'}, legend)];
    }

    /* `points`: [bytes, retention]. Null where there are none. */
    function curvesScale(points, width) {
        if (!points.length) return null;
        const {height, left, right, top, bottom} = CURVES;
        const most = Math.max(...points.map(point => point[0]));
        const least = Math.min(...points.map(point => point[1]));
        const x = bytes => left + ((width - left - right) * bytes) / most;
        const y = kept => top + ((height - top - bottom) * (1 - kept)) / Math.max(1e-6, 1 - least);
        return {width, left, right, labels: height - bottom + 18, most, least, x, y};
    }

    function dashes(i) {
        return {class: 'resize-lora-method', 'stroke-dasharray': DASHES[i % DASHES.length]};
    }

    function legendEntry(name, i, mark) {
        const line = draw('line', {x1: 1, x2: 33, y1: 5, y2: 5, ...dashes(i)});
        const on = {pointerenter: mark, focus: mark, click: mark};
        const sample = draw('svg', {width: 34, height: 10, 'aria-hidden': 'true'}, line);
        return el('button', {type: 'button', class: 'resize-lora-legend', on}, sample, name);
    }

    /* Two lists of bars: by block, and by what layers do. */
    function bytesPlot({blocks, types, bytes}, width) {
        const total = values => values.reduce((all, one) => all + one, 0);
        const byBlock = blocks.map((block, i) => [block, total(bytes[i])]);
        const byType = types.map((type, j) => [t(type), total(bytes.map(line => line[j]))]);
        const wide = width > 640 ? (width - 24) / 2 : width;
        const lists = [byBlock, byType].map(rows => barList(rows, wide));
        return el('div', {class: 'resize-lora-pair'}, lists);
    }

    function barList(rows, width) {
        const {left, right, row} = BAR_LIST;
        const most = Math.max(...rows.map(([, value]) => value), 1);
        const own = {
            width,
            height: rows.length * row + 4,
            role: 'img',
            'aria-label': t('File size by block and layer type'),
        };
        const bars = rows.map(([name, value], i) => {
            const long = ((width - left - right) * value) / most;
            const place = {x: left, y: i * row + 4, width: Math.max(1, long), height: row - 6};
            return draw(
                'g',
                null,
                draw('text', {x: left - 6, y: i * row + 15, 'text-anchor': 'end'}, name),
                draw('rect', {...place, class: 'resize-lora-bytes'}),
                draw('text', {x: left + long + 6, y: i * row + 15}, size(value)),
            );
        });
        return draw('svg', own, bars);
    }

    resizeLora.studyPlots = {bytesPlot, curvesPlot, heatMap, spectraPlot};
})((window.resizeLora = window.resizeLora || {}));
