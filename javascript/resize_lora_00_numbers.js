/* Numbers as text: sizes, shares, ranks. Pure. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.numbers) return;

    const MIB = 1048576;

    function digits(value) {
        const places = [10, 100].filter(most => value < most).length;
        return value.toLocaleString('en-US', {minimumFractionDigits: places, maximumFractionDigits: places});
    }

    /* Bytes as a file manager shows them; 1 MB is 2^20 bytes here, as in size=. */
    function size(bytes) {
        if (bytes == null) return '–';
        return bytes >= 1024 * MIB ? `${digits(bytes / 1024 / MIB)} GB` : `${digits(bytes / MIB)} MB`;
    }

    function sizes(before, after) {
        if (before >= 1024 * MIB || after >= 1024 * MIB) return `${size(before)} → ${size(after)}`;
        return `${digits(before / MIB)} → ${size(after)}`;
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
