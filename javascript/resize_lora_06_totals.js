/* Sums over several LoRAs: totals, the curve of the sum, and outliers. Pure. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.totals) return;

    const {pointFor} = resizeLora.curve;

    const STEPS = 60;

    /* {before, after, known, unknown, isEstimated} of files, where `after(file)` is the expected bytes or null. Sizes
       are of the files whose result is known; the others are only counted. */
    function totals(files, after) {
        const found = {before: 0, after: 0, known: 0, unknown: 0, isEstimated: false};
        for (const file of files) {
            const bytes = after(file);
            if (bytes == null) {
                found.unknown += 1;
                continue;
            }
            found.known += 1;
            found.before += file.bytes;
            found.after += bytes;
            found.isEstimated = found.isEstimated || file.estimated === true;
        }
        return found;
    }

    function presetBytes(file, preset) {
        return (file.predicted && file.predicted[preset]) ?? null;
    }

    /* The weight retention that a recipe asks for; null where it names none. */
    function askedRetention(recipe) {
        const found = /(?:^|,)retain=([\d.]+)/.exec(recipe || '');
        return found ? Number(found[1]) : null;
    }

    /* Size of all files against the retention of each: {points, marks, files}, smallest first. Marks are presets, with
       the retention that they ask for. The points are those of the tables where every file has one, else the marks.
       Files whose presets are not all known are left out; null where none is left. */
    function sumCurve(files, tables, presets) {
        const names = Object.keys(presets).filter(name => askedRetention(presets[name]) != null);
        const counted = files.filter(file => names.every(name => presetBytes(file, name) != null));
        if (!counted.length || !names.length) return null;
        const marks = names.map(name => ({
            name,
            retention: askedRetention(presets[name]),
            bytes: counted.reduce((all, file) => all + presetBytes(file, name), 0),
        }));
        marks.sort((a, b) => a.bytes - b.bytes);
        const found = counted.map(file => tables.get(file.name));
        return {points: found.every(Boolean) ? tableSum(found) : marks, marks, files: counted};
    }

    function tableSum(tables) {
        const least = Math.max(...tables.map(table => table[0].retention));
        return Array.from({length: STEPS + 1}, (_, i) => {
            const retention = least + ((1 - least) * i) / STEPS;
            const bytesAt = table => table[pointFor(table, {mode: 'retention', retention})].bytes;
            return {retention, bytes: tables.reduce((all, table) => all + bytesAt(table), 0)};
        });
    }

    /* The outliers: [kind, file, value], for `most` and `least` bytes saved, and `worst`, the lowest
       retention. Without two known values there are none. */
    function outliers(files, gain, retention) {
        const gains = known(files, gain);
        const kept = known(files, retention);
        const found = [];
        if (gains.length > 1) found.push(['most', ...gains[gains.length - 1]], ['least', ...gains[0]]);
        if (kept.length > 1) found.push(['worst', ...kept[0]]);
        return found;
    }

    /* Pairs of file and value, the least value first. */
    function known(files, valueOf) {
        const pairs = files.map(file => [file, valueOf(file)]).filter(([, value]) => value != null);
        return pairs.sort((a, b) => a[1] - b[1]);
    }

    /* Results in groups of one call each, in the order of their first result. */
    function byBatch(results) {
        const groups = new Map();
        for (const result of results) {
            const key = result.batch || result.result;
            groups.set(key, [...(groups.get(key) || []), result]);
        }
        return [...groups].map(([key, members]) => ({key, members}));
    }

    resizeLora.totals = {byBatch, outliers, presetBytes, sumCurve, totals};
})((window.resizeLora = window.resizeLora || {}));
