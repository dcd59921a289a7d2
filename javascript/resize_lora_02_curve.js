/* The curve of retention against size, and the axes of plots. Pure. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.curve) return;

    const {MIB} = resizeLora.numbers;

    const TOLERANCE = 1.0005; // the table is within 0.1 % of a plan
    const LETTER_WIDTH = 7; // pixels, rather more than less

    /* The index of the point that meets a target: the largest file that fits, or the smallest that keeps enough. */
    function pointFor(points, target) {
        if (target.mode === 'size') {
            return Math.max(0, points.filter(point => point.bytes <= target.size * MIB * TOLERANCE).length - 1);
        }
        const at = points.findIndex(point => point.retention >= target.retention - 1e-9);
        return at < 0 ? points.length - 1 : at;
    }

    function inReach(points, target) {
        return target.mode !== 'size' || points[0].bytes <= target.size * MIB * TOLERANCE;
    }

    /* The smallest of 1, 2, 5, 10, 20, ... (and 0.1, 0.2, ...) that is not below a positive value. */
    function niceStep(value) {
        const power = 10 ** Math.floor(Math.log10(value));
        return [1, 2, 5, 10].map(times => times * power).find(step => step >= value) || 10 * power;
    }

    /* Retentions to mark on an axis, from 1 down to the least, in at most `steps` steps. */
    function shareTicks(least, steps) {
        if (least >= 1) return [1];
        const step = niceStep((1 - least) / steps);
        const found = Math.floor((1 - least) / step + 1e-9);
        return Array.from({length: found + 1}, (_, i) => 1 - i * step);
    }

    /* Sizes in MB to mark on an axis, from 0 up to a number of bytes, in at most `steps` steps. */
    function sizeTicks(most, steps) {
        const step = niceStep(most / MIB / steps);
        return Array.from({length: Math.floor(most / MIB / step + 1e-9) + 1}, (_, i) => i * step);
    }

    /* Returns whether two labels {left, top, text}, in pixels, would overlap. */
    function overlap(one, other) {
        const end = label => label.left + LETTER_WIDTH * label.text.length;
        return Math.abs(one.top - other.top) < 11 && one.left < end(other) && other.left < end(one);
    }

    resizeLora.curve = {LETTER_WIDTH, inReach, niceStep, overlap, pointFor, shareTicks, sizeTicks};
})((window.resizeLora = window.resizeLora || {}));
