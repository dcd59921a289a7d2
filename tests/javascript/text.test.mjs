import assert from 'node:assert/strict';
import {test} from 'node:test';
import {load, plain} from './load.mjs';

const {csvText, nameParts, parsed, scoreItems, splitByRecipe, withTag} = load().text;
const TAG = {name: 'new', tag: '<lora:new:1>', activation: 'hog', old_names: ['old', 'older']};

function tagged(prompt, tag = TAG) {
    const {text, end} = withTag(prompt, tag, ', ');
    return `${text.slice(0, end)}|${text.slice(end)}`;
}

test('a tag goes to the end of a prompt, with what activates it', () => {
    assert.equal(tagged(''), '<lora:new:1> hog|');
    assert.equal(tagged('a hog'), 'a hog, <lora:new:1> hog|');
    assert.equal(tagged('a hog '), 'a hog <lora:new:1> hog|');
    assert.equal(tagged('a', {...TAG, activation: ''}), 'a, <lora:new:1>|');
});

test('a tag takes the place of an old one and keeps its weights', () => {
    assert.equal(tagged('a <lora:old:0.8> b'), 'a <lora:new:0.8>| b');
    assert.equal(tagged('<lyco:OLD:1> <lora:older:0.5:lbw=MIDD>'), '<lyco:OLD:1> <lora:new:0.5:lbw=MIDD>|');
    assert.equal(tagged('<lora:old> c <lora:older:2>'), '<lora:new>| c <lora:new:2>');
    assert.equal(tagged('<lora:new:0.3> x'), '<lora:new:0.3>| x');
});

test('tags of other LoRAs stay', () => {
    assert.equal(tagged('<lora:other:1>', {...TAG, activation: ''}), '<lora:other:1>, <lora:new:1>|');
});

test('no cell of a CSV file is a formula, and numbers stay numbers', () => {
    const rows = [
        ['name', 'saved'],
        ['=1+1', -0.5],
        ['a,"b"', null],
        [' ＝x', 2],
    ];
    assert.equal(csvText(rows), '\ufeffname,saved\r\n"\'=1+1",-0.5\r\n"a,""b""",\r\n"\' ＝x",2\r\n');
});

test('scores have a weight of 1 unless they name another', () => {
    assert.deepEqual(plain(scoreItems('fro_lora=0.5,min_rank')), {fro_lora: 0.5, min_rank: 1});
});

test('an order with several recipes is given again as one order for each', () => {
    const params = {recipe: 'size=10:size=20', names: ['a', 'b'], options: {}};
    const some = [
        {name: 'a', recipe: 'size=10'},
        {name: 'b', recipe: 'size=20'},
        {name: 'b', recipe: 'size=10'},
    ];
    assert.deepEqual(plain(splitByRecipe(params, some)), [
        {recipe: 'size=10', names: ['a', 'b'], options: {}},
        {recipe: 'size=20', names: ['b'], options: {}},
    ]);
    assert.deepEqual(plain(splitByRecipe({target: {preset: 'low'}, names: []}, some.slice(0, 1))), [
        {target: {preset: 'low'}, names: ['a']},
    ]);
});

test('half a reply is no reply', () => {
    assert.deepEqual(plain(parsed('{"id": 1}')), {id: 1});
    assert.equal(parsed('{"id":'), null);
});

test('a long name keeps its end, and no letter is cut in two', () => {
    assert.deepEqual(plain(nameParts('pastry-sdxl')), ['pastry-sdxl', '']);
    assert.deepEqual(plain(nameParts('pastry-sdxl_46mb')), ['pastry-s', 'dxl_46mb']);
    assert.deepEqual(plain(nameParts('a_very_long_name_of_a_lora_46mb')), ['a_very_long_name_of_a_l', 'ora_46mb']);
    const parts = nameParts('𝒜'.repeat(25));
    assert.deepEqual(plain(parts.map(part => Array.from(part).length)), [17, 8]);
});
