/* The share of a LoRA's effect that a file keeps. */
import assert from 'node:assert/strict';
import {test} from 'node:test';
import {load} from './load.mjs';

const {effectHint, effectText} = load().effect;
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

test('the worst image is named where there are several', () => {
    const whole = {isWhole: true};
    assert.equal(effectText({kept: 0.978, worst: 0.961, seeds: 2}, whole), 'Effect kept: 97.8 %, worst image 96.1 %');
    assert.equal(effectText({kept: 0.978, worst: 0.978, seeds: 1}, whole), 'Effect kept: 97.8 %');
    assert.equal(effectText(null, whole), '');
});
