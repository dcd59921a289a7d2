/* Numbers as text: sizes, shares, ranks. Pure. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.numbers) return;

    const MIB = 1048576;

    function digits(value) {
        const places = [10, 100].filter(most => value < most).length;
        return value.toLocaleString('en-US', {minimumFractionDigits: places, maximumFractionDigits: places});
    }

    const UNITS = [
        [1024 * MIB, 'GB'],
        [MIB / 10, 'MB'],
        [1024, 'KB'],
        [0, 'B'],
    ];
    const DIVISORS = {GB: 1024 * MIB, MB: MIB, KB: 1024};

    function unitOf(bytes) {
        return UNITS.find(([least]) => bytes >= least)[1];
    }

    function figure(bytes, unit) {
        return unit === 'B' ? String(bytes) : digits(bytes / DIVISORS[unit]);
    }

    /* Bytes as a file manager shows them; 1 MB is 2^20 bytes here, as in size=. */
    function size(bytes) {
        if (bytes == null) return '–';
        if (bytes < 0) return `−${size(-bytes)}`;
        const unit = unitOf(bytes);
        return `${figure(bytes, unit)} ${unit}`;
    }

    /* Two sizes; the unit is written once where it is the same. */
    function sizes(before, after) {
        const unit = unitOf(before);
        return unit === unitOf(after) ? `${figure(before, unit)} → ${size(after)}` : `${size(before)} → ${size(after)}`;
    }

    function count(number) {
        return number.toLocaleString('en-US');
    }

    function percent(share, places = 1) {
        return share == null ? '–' : `${(100 * share).toFixed(places)} %`;
    }

    function saving(before, after) {
        const share = 1 - after / before;
        const rounded = Math.abs(100 * share).toFixed(0);
        const sign = share >= 0 ? '−' : '+';
        return rounded === '0' ? '0 %' : `${sign}${rounded} %`;
    }

    function rankRange(range) {
        if (!range) return '–';
        const least = range[0];
        const most = range[range.length - 1];
        return least === most ? String(most) : `${least}…${most}`;
    }

    function round(value, places) {
        return Number(value.toFixed(places));
    }

    function sum(files, field) {
        return files.reduce((total, file) => total + file[field], 0);
    }

    resizeLora.numbers = {MIB, count, digits, percent, rankRange, round, saving, size, sizes, sum};
})((window.resizeLora = window.resizeLora || {}));
