/* The files of a run: their order, their states, and as a table. Pure. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.items) return;

    const {count} = resizeLora.numbers;
    const {t} = resizeLora.words;
    const {byText} = resizeLora.filter;
    const {shareSaved} = resizeLora.sums;

    const FILTERS = {
        all: () => true,
        resized: item => item.state === 'resized' || item.state === 'purged',
        left: item => item.state === 'left',
        failed: item => item.state === 'failed',
        restored: item => item.state === 'restored',
        open: item => item.state === 'waiting' || item.state === 'working',
    };

    const COLUMNS = [
        'name',
        'folder',
        'family',
        'state',
        'reason',
        'message',
        'bytes_before',
        'bytes_after',
        'gain',
        'retention',
        'effect',
        'worst',
        'notes',
        'seconds',
    ];

    /* The share that was saved; null where no new file was made. */
    function itemGain(item) {
        return item.bytes_after == null || item.state === 'left'
            ? null
            : shareSaved(item.bytes_before, item.bytes_after);
    }

    /* The files of a run in an order. Files without the value come last, and equal ones are sorted by name.

       risk: of the resized files the lowest weight retention first, among equal ones those with most notes, because
       these files are the most likely to look different; then all others. */
    function sorted(items, order) {
        const compare = {gain: byGain, risk: byRisk, name: () => 0}[order];
        return [...items].sort((a, b) => compare(a, b) || byText(a.name, b.name));
    }

    function byGain(a, b) {
        return missingLast(itemGain(a), itemGain(b), (x, y) => y - x);
    }

    function byRisk(a, b) {
        const retained = missingLast(riskOf(a), riskOf(b), (x, y) => x - y);
        return retained || notesOf(b).length - notesOf(a).length;
    }

    function riskOf(item) {
        return FILTERS.resized(item) ? item.retention : null;
    }

    function missingLast(x, y, compare) {
        if (x == null || y == null) return (x == null) - (y == null);
        return compare(x, y);
    }

    function notesOf(item) {
        return item.notes || [];
    }

    /* How many files of a run each filter shows. */
    function filterCounts(items) {
        const counts = {};
        for (const [name, fits] of Object.entries(FILTERS)) counts[name] = items.filter(fits).length;
        return counts;
    }

    /* The files of a run as rows of a table, with a head. */
    function tableOf(items) {
        const rows = items.map(item => {
            const gain = itemGain(item);
            const effect = item.effect ? item.effect.kept : '';
            const worst = item.effect ? item.effect.worst : '';
            const cells = {...item, gain, effect, worst, notes: notesOf(item).join('; ')};
            return COLUMNS.map(column => cells[column] ?? '');
        });
        return [COLUMNS, ...rows];
    }

    /* A run with its files, as JSON. */
    function jsonText(run, items) {
        return `${JSON.stringify({run, items}, null, 2)}\n`;
    }

    /* A time as text, to two units: "40 s", "12 min", "2 h 10 min", "3 d 4 h". */
    function spanText(seconds) {
        const minutes = Math.round(seconds / 60);
        if (seconds < 90) return t('{n} s', {n: Math.max(1, Math.round(seconds))});
        if (minutes < 60) return t('{n} min', {n: minutes});
        if (minutes < 24 * 60) return hoursText(Math.floor(minutes / 60), minutes % 60);
        const hours = Math.round(minutes / 60);
        return daysText(Math.floor(hours / 24), hours % 24);
    }

    function hoursText(hours, minutes) {
        return minutes ? t('{n} h {m} min', {n: hours, m: minutes}) : t('{n} h', {n: hours});
    }

    function daysText(days, hours) {
        return hours ? t('{n} d {m} h', {n: count(days), m: hours}) : t('{n} d', {n: count(days)});
    }

    /* The files of a run as they are watched: the one in work, then those that wait, then the others. */
    function watched(items) {
        const place = {working: 0, waiting: 1};
        const placeOf = item => place[item.state] ?? 2;
        return [...items].sort((a, b) => placeOf(a) - placeOf(b));
    }

    const TITLE_MARK = /^\d+ % · /;

    /* The title of the page with the progress of a run in front, or without where `share` is null. The rest of the
       title stays as the host sets it. */
    function titleWith(title, share) {
        const own = title.replace(TITLE_MARK, '');
        return share == null ? own : `${Math.floor(100 * share)} % · ${own}`;
    }

    resizeLora.items = {FILTERS, filterCounts, jsonText, sorted, spanText, tableOf, titleWith, watched};
})((window.resizeLora = window.resizeLora || {}));
