import assert from 'node:assert/strict';
import {readFileSync} from 'node:fs';
import {test} from 'node:test';
import {load} from './load.mjs';

const GERMAN = {
    '{1}: no such file. Check the path.': '{1}: fehlt. Prüfe den Pfad.',
    '{1}: {text2}; expected {text3}. {text4}': '{1}: {text2}, nötig: {text3}. {text4}',
    '{1}: {text2} cannot be read': '{text2} von {1} ist nicht lesbar',
    '{1} of {2} layers are zero': 'von {2} Ebenen sind {1} null',
    'the file has {1} bytes': 'die Datei hat {1} Bytes',
    'the file is empty': 'die Datei ist leer',
    'a whole file': 'eine ganze Datei',
    'Try again.': 'Noch einmal.',
    'untranslated {1} message': '',
    'Invalid recipe': 'Ungültiges Rezept',
    '{n} s left': 'noch {n} s',
};
const HOSTILE = [
    '{}',
    '{1}',
    '{text2}',
    '%s %d',
    '$& $1 $`',
    '.*+?^${}()|[]\\',
    'a\nb\r\tc',
    '__proto__',
    'constructor',
    'the file is empty',
    'a whole file',
    'Size',
    '画風 <b>"x"</b>',
    'long '.repeat(2000),
    '',
];

const texts = (language = GERMAN) => load({language}).messages;

test('values are put into the places of the translation, in its order', () => {
    const {messageText} = texts();
    assert.equal(messageText('3 of 12 layers are zero'), 'von 12 Ebenen sind 3 null');
    assert.equal(
        messageText('/a b/c.safetensors: no such file. Check the path.'),
        '/a b/c.safetensors: fehlt. Prüfe den Pfad.',
    );
});

test('messages inside of messages are translated', () => {
    const {messageText} = texts();
    const message = 'x.safetensors: the file has 7 bytes; expected a whole file. Try again.';
    assert.equal(messageText(message), 'x.safetensors: die Datei hat 7 Bytes, nötig: eine ganze Datei. Noch einmal.');
    const nested = 'x: the file has 7 bytes; expected b: the file is empty. Try again.';
    assert.equal(messageText(nested), 'x: die Datei hat 7 Bytes, nötig: b: die Datei ist leer. Noch einmal.');
});

test('names before a message, a full stop after it, and lists of messages are no obstacle', () => {
    const {messageText} = texts();
    assert.equal(messageText('layer 3: the file is empty'), 'layer 3: die Datei ist leer');
    assert.equal(messageText('a: b: the file is empty.'), 'a: b: die Datei ist leer.');
    assert.equal(
        messageText('the file is empty; the file has 2 bytes; else'),
        'die Datei ist leer; die Datei hat 2 Bytes; else',
    );
    const japanese = texts({'the file is empty': 'ファイルが空です'});
    assert.equal(japanese.messageText('a: the file is empty.'), 'a: ファイルが空です。');
});

test('unknown messages, empty ones and those without a translation stay', () => {
    const {messageText} = texts();
    for (const text of ['something else', 'untranslated 3 message', '', null, undefined, 'constructor', '3 s left']) {
        assert.equal(messageText(text), text);
    }
    assert.equal(texts({}).messageText('the file is empty'), 'the file is empty');
});

test('a template begins and ends where the message does', () => {
    const {messageText} = texts();
    for (const text of ['see: 3 of 12 layers are zero now', 'the file has 7 bytes more', 'x the file is empty']) {
        assert.equal(messageText(text), text);
    }
});

test('values are shown unchanged, although they look like places, patterns or messages', () => {
    const {messageText} = texts();
    for (const value of HOSTILE) {
        assert.equal(messageText(`${value}: no such file. Check the path.`), `${value}: fehlt. Prüfe den Pfad.`);
        assert.equal(messageText(`${value} of ${value} layers are zero`), `von ${value} Ebenen sind ${value} null`);
        const message = `${value}: the file has 7 bytes; expected a whole file. Try again.`;
        const expected = `${value}: die Datei hat 7 Bytes, nötig: eine ganze Datei. Noch einmal.`;
        assert.equal(messageText(message), expected);
    }
});

test('the template with the most literal text wins', () => {
    const {messageText} = texts({'{1}: {2}, {3}': 'weak', 'x: {1}, {2} layers': '{2} Ebenen, {1}'});
    assert.equal(messageText('x: a, 2 layers'), '2 Ebenen, a');
});

test('the template that recognises most of a message wins, with the messages inside of it', () => {
    const {messageText} = texts({
        '{1}: holds {text2}.': '{1}: enthält {text2}.',
        '{1} ({2} layers, first {3}), which {text4}': '{1} ({2} Ebenen, zuerst {3}): {text4}',
        'there is nothing; it holds {text1}': 'nichts; es enthält {text1}',
        'is unknown': 'unbekannt',
    });
    const part = 'T (2 layers, first x), which is unknown';
    assert.equal(messageText(`a: b.st: holds ${part}.`), 'a: b.st: enthält T (2 Ebenen, zuerst x): unbekannt.');
    assert.equal(
        messageText(`b.st: there is nothing; it holds ${part}`),
        'b.st: nichts; es enthält T (2 Ebenen, zuerst x): unbekannt',
    );
});

test('an error without a translation has the title of its kind, if that is translated', () => {
    const {errorText} = texts();
    assert.equal(errorText({kind: 'recipe', message: 'odd word'}), 'Ungültiges Rezept: odd word');
    assert.equal(errorText({kind: 'recipe', message: 'the file is empty'}), 'die Datei ist leer');
    assert.equal(errorText({kind: 'file', message: 'odd word'}), 'odd word');
    assert.equal(errorText({kind: 'constructor', message: 'odd word'}), 'odd word');
    assert.equal(errorText(new Error('odd word')), 'odd word');
    assert.equal(texts({}).errorText({kind: 'recipe', message: 'odd word'}), 'odd word');
});

/* A pattern that tries all ways to divide this text would not end. */
test('a long message that almost matches a template of many places is refused', () => {
    const {messageText} = texts({...GERMAN, [`${'{1} a '.repeat(40)}q{2}z`]: 'x'});
    const text = `${'a a: ; '.repeat(2000)}z`;
    assert.equal(messageText(text), text);
});

/* Fills the places of a template or of its translation. */
function filled(text, valueOf) {
    return text.replace(/\{(\d+|text\d+)\}/g, (_, name) => valueOf(name));
}

for (const name of ['ja', 'zh-Hans']) {
    const words = JSON.parse(readFileSync(new URL(`../../localizations/${name}.json`, import.meta.url), 'utf8'));
    const templates = Object.keys(words).filter(text => /\{(\d+|text\d+)\}/.test(text));

    test(`${name}: each message is recognised, and its values are shown unchanged`, () => {
        const {messageText} = load({language: words}).messages;
        assert.ok(templates.length > 300);
        for (const valueOf of [key => `«${key}»`, key => `«.*{${key}}$&»`]) {
            for (const text of templates) {
                const shown = messageText(filled(text, valueOf));
                const values = text.match(/\{(\d+|text\d+)\}/g).map(place => valueOf(place.slice(1, -1)));
                for (const value of values) assert.ok(shown.includes(value), `${text}: ${shown}`);
                assert.equal(shown, filled(words[text], valueOf));
            }
        }
    });
}
