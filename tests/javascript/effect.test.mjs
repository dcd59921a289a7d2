/* The share of a LoRA's effect that a file keeps. */
import assert from 'node:assert/strict';
import {test} from 'node:test';
import {load} from './load.mjs';

const {effectHint, effectText, recordLines} = load().effect;
const EFFECT = {kept: 0.9784, worst: 0.961, seeds: 4, sampler: 'Euler a', steps: 20, width: 832, height: 1216};

test('only equal images keep 100 %, and nothing is below 0 %', () => {
    const texts = {1: '100.0 %', 0.99999: '99.9 %', 0.978: '97.8 %', 0: '0.0 %', '-2': '0.0 %'};
    for (const [share, text] of Object.entries(texts)) {
        assert.equal(effectText({...EFFECT, kept: Number(share)}), `Effect kept: ${text}`);
    }
});

test('a figure has its images, and a file without one has no text', () => {
    assert.equal(effectText(EFFECT), 'Effect kept: 97.8 %');
    assert.equal(effectHint(EFFECT), 'Worst image: 96.1 % · Images: 4 · Euler a · 20 steps · 832×1216');
    assert.equal(effectHint({...EFFECT, sampler: null, steps: null}), 'Worst image: 96.1 % · Images: 4 · 832×1216');
    assert.equal(effectText(null) + effectHint(undefined), '');
});

const FIT = {images: 4, steps: 4, layers: 771, errors: [{model: 'unet', plain: 0.357, fitted: 0.241}]};

test('the records of a file are lines, and a file without any has none', () => {
    const none = {effect: null, fit: null, unreadable: []};
    assert.deepEqual([...recordLines(none)], []);
    assert.deepEqual(
        [...recordLines({...none, effect: EFFECT, fit: FIT})],
        [
            'Effect kept: 97.8 % · Worst image: 96.1 % · Images: 4 · Euler a · 20 steps · 832×1216',
            'Fitted to images: 771 layers · Images: 4 · 4 steps · unet: error 0.241 instead of 0.357',
        ],
    );
    assert.deepEqual(
        [...recordLines({...none, unreadable: ['fit', 'effect']})],
        ['A record of images in this file is unreadable.'],
    );
});

test('a fit without a gain says that plain truncation is kept', () => {
    const lines = fit => recordLines({effect: null, fit: {...FIT, ...fit}, unreadable: []});
    const nothing = 'Fitted to images without a gain: plain truncation is kept · Images: 4 · 4 steps';
    assert.deepEqual([...lines({layers: 0})], [nothing]);
    const worse = [{model: 'unet', plain: 0.1, fitted: 0.4}];
    assert.match(lines({errors: worse})[0], /unet: plain truncation is kept, with error 0.1$/);
});
