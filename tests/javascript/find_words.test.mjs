import assert from 'node:assert/strict';
import {test} from 'node:test';
import {load, plain} from './load.mjs';

const words = load().findWords;

function trial(bytes, more) {
    return {bytes, recipe: `size=${bytes}`, kept: 0.9, worst: 0.8, seeds: 2, accepted: true, ...more};
}

test('a search makes fewer images with fewer seeds', () => {
    assert.deepEqual(
        [1, 2, 4].map(seeds => words.aboutImages(seeds)),
        [8, 15, 23],
    );
});

test('a fit needs its images, one for the comparison, and one more for each size', () => {
    const sizes = 5;
    for (const seeds of [1, 2, 4]) {
        assert.equal(words.aboutImages(seeds, 4), words.aboutImages(seeds) + 4 + 1 + sizes);
    }
});

test('a target is a percentage from 50 to 99.9', () => {
    assert.equal(words.targetOf('98'), 0.98);
    assert.equal(words.targetOf(50), 0.5);
    assert.equal(words.targetOf('99.9'), 0.999);
    for (const wrong of ['49.9', '100', '', ' ', 'high', '-90']) assert.equal(words.targetOf(wrong), null);
});

test('a figure names the worst image where it is known, and nothing where there is no figure', () => {
    assert.equal(words.keptText({kept: 0.978, worst: 0.961}), "keeps 97.8 % of the LoRA's effect (worst image 96.1 %)");
    assert.equal(words.keptText({kept: 0.978, worst: null}), "keeps 97.8 % of the LoRA's effect");
    assert.equal(words.keptText({kept: 0.9999, worst: -0.1}), "keeps 99.9 % of the LoRA's effect (worst image 0.0 %)");
    assert.equal(words.keptText({kept: null, worst: null}), '');
    assert.equal(words.trialText(trial(1048576, {kept: null})), '1.00 MB');
});

test('one seed has another form than several', () => {
    assert.deepEqual(
        [1, 4].map(seeds => words.seedsText(seeds)),
        ['1 seed', '4 seeds'],
    );
});

test('a size that is measured again replaces its first figures, and the largest is first', () => {
    const first = words.withTrial([], trial(10, {kept: 0.99}));
    const second = words.withTrial(first, trial(30));
    const third = words.withTrial(second, trial(10, {kept: 0.97, seeds: 4}));
    assert.deepEqual(
        plain(third).map(({bytes, kept, seeds}) => [bytes, kept, seeds]),
        [
            [30, 0.9, 2],
            [10, 0.97, 4],
        ],
    );
    assert.equal(first[0].kept, 0.99);
});

test('a tag counts with any of its names, and with any strength', () => {
    assert.ok(words.hasTag('a <lora:cake:0.8:0.5> b', ['tart', 'cake']));
    assert.ok(words.hasTag('<LyCO:cake>', ['cake']));
    assert.ok(!words.hasTag('a cake <lora:cake2:1>', ['cake']));
    assert.ok(!words.hasTag('', ['cake']));
});

test('a template has no tags, one place for the trigger words, and no empty parts', () => {
    assert.equal(words.templateOf('a cake, <lora:x:1>, fog'), '{trigger}, a cake, fog');
    assert.equal(words.templateOf('<lora:x:1>, a cake, <lora:y:0.5:lbw=1>'), '{trigger}, a cake');
    assert.equal(words.templateOf(' <lora:x:1> '), '{trigger}');
    assert.equal(words.templateOf('photo of {trigger}, <lora:x:1>'), 'photo of {trigger}');
});

test('settings that the host did not name are left out', () => {
    const all = {width: 1024, height: 768, steps: 20, cfg_scale: 7, sampler_name: 'Euler a', seed: 5};
    assert.equal(words.settingsText(all), '1024×768 · 20 steps · Euler a · CFG 7 · seed 5');
    assert.equal(words.settingsText({seed: -1}), 'random seed');
    assert.equal(words.settingsText({}), 'random seed');
});

test('a fit of one file makes its own images, one for the comparison, and one for the file', () => {
    assert.equal(words.fitImages(4), 6);
});

test('the time of images is known with their pace, steps and size', () => {
    const settings = {width: 1024, height: 512, steps: 20};
    assert.equal(words.imageSeconds(10, settings, 1e-6), 10 * 1024 * 512 * 20 * 1e-6);
    assert.equal(words.imageSeconds(10, settings, null), null);
    for (const name of Object.keys(settings)) {
        assert.equal(words.imageSeconds(10, {...settings, [name]: undefined}, 1e-6), null, name);
    }
});

test('the image of a job is the one in progress, and a search only knows about how many there are', () => {
    assert.equal(words.imageText({kind: 'find', done: 3, total: 21}), 'image 4 of about 21');
    assert.equal(words.imageText({kind: 'shrink', done: 21, total: 21}), 'image 21 of about 21');
    assert.equal(words.imageText({kind: 'compare', done: 0, total: 2}), 'image 1 of 2');
    assert.equal(words.imageText({kind: 'find', done: 0, total: 0}), '');
});
