/* How much of a LoRA's effect on images a file keeps, as text. Pure. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.effect) return;

    const {count, percent} = resizeLora.numbers;
    const {t} = resizeLora.words;

    const SEEDS = [1, 2, 4]; // numbers of images to choose from
    const MOST = 0.999; // of images that are not equal

    /* A share of the effect: 100 % only for equal images, and 0 % where nothing is kept. */
    function shareText(share) {
        return percent(share < 1 ? Math.max(0, Math.min(share, MOST)) : 1);
    }

    /* The figure that was kept with a file, `isWhole` with that of the worst image; empty where there is none. */
    function effectText(effect, {isWhole = false} = {}) {
        if (!effect) return '';
        const values = {kept: shareText(effect.kept), worst: shareText(effect.worst)};
        return isWhole && effect.seeds > 1
            ? t('Effect kept: {kept}, worst image {worst}', values)
            : t('Effect kept: {kept}', values);
    }

    /* The images that the figure is of. */
    function effectHint(effect) {
        if (!effect) return '';
        const images = t('Images: {n}', {n: count(effect.seeds)});
        const size = `${effect.width}×${effect.height}`;
        const settings = [effect.sampler, effect.steps && t('{n} steps', {n: count(effect.steps)}), size];
        const worst = t('Worst image: {worst}', {worst: shareText(effect.worst)});
        return [worst, images, ...settings].filter(Boolean).join(' · ');
    }

    resizeLora.effect = {SEEDS, effectHint, effectText, shareText};
})((window.resizeLora = window.resizeLora || {}));
