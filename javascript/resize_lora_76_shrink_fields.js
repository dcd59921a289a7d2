/* The parts of the dialog *Shrink library*: presets with their sums, limits, originals, and what is left alone. */
(function (resizeLora) {
    'use strict';
    if (resizeLora.shrinkFields) return;

    const {count, percent, saving, size, sizes} = resizeLora.numbers;
    const {t} = resizeLora.words;
    const {messageText} = resizeLora.messages;
    const {byText} = resizeLora.filter;
    const {el, input, labelled, quiet, setText, show} = resizeLora.elements;
    const {reasonText} = resizeLora.runWords;

    const MOST_LISTED = 300; // names of one reason in the page

    /* Radio buttons in a row: {box, draw(value, words)}; words is value -> text, without those that are not offered. */
    function radioRow(name, label, values, pick) {
        const radios = values.map(value => {
            const radio = input('radio', `resize_lora_${name}_${value}`, {
                name: `resize_lora_${name}`,
                'data-action': `${name}-${value}`,
                on: {change: () => pick(value)},
            });
            const text = el('span');
            return {value, radio, text, box: el('label', {class: 'resize-lora-check'}, radio, text)};
        });
        const own = {class: 'resize-lora-radios', role: 'radiogroup', 'aria-label': label};
        const draw = (chosen, words) => {
            for (const one of radios) {
                one.radio.checked = one.value === chosen;
                setText(one.text, words[one.value] || '');
                show(one.box, one.value in words);
            }
        };
        return {
            box: el(
                'div',
                own,
                radios.map(one => one.box),
            ),
            draw,
        };
    }

    /* The table of presets: {box, draw(chosen, sums), note(name, text, isRefused)}; sums is preset -> sums, null while
       they are on their way. A note is shown in place of sizes. */
    function presetTable(words, pick) {
        const rows = Object.keys(words).map(name => presetRow(name, words[name], pick));
        const heads = ['', t('Preset'), t('LoRAs'), t('Size'), t('Freed')];
        const head = heads.map(text => el('th', {scope: 'col'}, text));
        const body = rows.map(one => one.row);
        const box = el(
            'table',
            {class: 'resize-lora-sums', 'aria-label': t('Preset')},
            el('thead', null, el('tr', null, head)),
            el('tbody', null, body),
        );
        const note = (name, text, isRefused) => {
            const {freed, radio, ...cells} = rows.find(one => one.name === name);
            freed.remove();
            cells.sizes.colSpan = 2;
            cells.sizes.className = 'resize-lora-quiet';
            cells.sizes.dataset.note = text;
            cells.sizes.id = `${radio.id}_note`;
            radio.setAttribute('aria-describedby', cells.sizes.id);
            radio.disabled = isRefused;
        };
        return {box, note, draw: (chosen, sums) => rows.forEach(one => drawPresetRow(one, chosen, sums))};
    }

    function presetRow(name, text, pick) {
        const id = `resize_lora_shrink_${name}`;
        const radio = input('radio', id, {
            name: 'resize_lora_shrink_preset',
            'data-action': `preset-${name}`,
            on: {change: () => pick(name)},
        });
        const cells = {files: el('td'), sizes: el('td'), freed: el('td')};
        const label = el('label', {for: id}, text);
        const head = [el('td', null, radio), el('th', {scope: 'row'}, label)];
        const row = el('tr', {'data-key': name, on: {click: () => radio.click()}}, head, Object.values(cells));
        radio.addEventListener('click', event => event.stopPropagation());
        label.addEventListener('click', event => event.stopPropagation());
        return {name, radio, row, ...cells};
    }

    function drawPresetRow({name, radio, row, files, sizes: cell, freed}, chosen, all) {
        const sums = all[name];
        const isKnown = Boolean(sums) && sums.files > sums.unknown.files;
        show(row, sums !== undefined);
        radio.checked = name === chosen;
        row.classList.toggle('resize-lora-chosen', name === chosen);
        setText(files, sums ? count(sums.files) : '–');
        setText(cell, cell.dataset.note || (isKnown ? sizes(sums.before, sums.after) : '–'));
        setText(freed, isKnown ? `${size(sums.freed)} (${saving(sums.before, sums.after)})` : '–');
    }

    /* A field for a percentage; `work` gets a number, or null where it is empty and may be. */
    function percentField(id, label, value, {hint, isOptional, work}) {
        const read = () => {
            const number = field.valueAsNumber;
            const isEmpty = field.value === '' && field.validity.valid;
            const isValid = isEmpty ? Boolean(isOptional) : number >= 0 && number <= 100;
            field.setAttribute('aria-invalid', String(!isValid));
            if (isValid) work(isEmpty ? null : number);
        };
        const own = {min: '0', max: '100', step: 'any', placeholder: isOptional ? t('none') : '', on: {input: read}};
        const field = input('number', id, {...own, value: value == null ? '' : String(value)});
        return labelled(label, field, hint);
    }

    /* Checkboxes for what is excluded: {box, draw(counts)}; `excluded` is the set that they change. */
    function exclusion(title, name, {excluded, words, changed}) {
        const list = el('div', {class: 'resize-lora-exclusion'});
        const summary = el('summary');
        const box = el('details', {'data-key': name}, summary, list);
        let shown = '';
        const line = ([value, files]) => {
            const tick = on => {
                if (on) excluded.add(value);
                else excluded.delete(value);
                changed();
            };
            const own = {checked: excluded.has(value), 'data-key': value};
            const one = input('checkbox', null, {...own, on: {change: () => tick(one.checked)}});
            const text = el('span', {class: 'resize-lora-cut'}, words(value));
            return el('label', {class: 'resize-lora-check'}, one, text, quiet(count(files)));
        };
        const draw = counts => {
            const known = counts.filter(([value]) => excluded.has(value)).map(([value]) => words(value));
            setText(summary, `${title}: ${known.length ? known.join(', ') : t('none')}`);
            show(box, counts.length > 1 || known.length > 0);
            const key = JSON.stringify(counts);
            if (key === shown) return;
            shown = key;
            list.replaceChildren(...counts.map(line));
        };
        return {box, draw};
    }

    /* What is left alone, by reason; each unfolds to its names: {box, draw(left)}. */
    function leftList() {
        const title = el('strong');
        const box = el('div', {class: 'resize-lora-left-list', 'aria-label': t('Left alone'), role: 'group'}, title);
        const groups = new Map();
        const draw = left => {
            const all = [...left.values()].flat().length;
            setText(title, t('Left alone: {n}', {n: count(all)}));
            show(box, all > 0);
            const shown = [...left].sort(([, one], [, other]) => other.length - one.length);
            for (const kind of left.keys()) if (!groups.has(kind)) groups.set(kind, leftGroup(kind));
            groups.forEach((group, kind) => group.draw(left.get(kind) || []));
            const order = shown.map(([kind]) => groups.get(kind).box);
            if (order.some((one, i) => box.children[i + 1] !== one)) box.append(...order);
        };
        return {box, draw};
    }

    function leftGroup(kind) {
        const summary = el('summary');
        const list = el('ul');
        const box = el('details', {'data-key': kind}, summary, list);
        let rows = [];
        const fill = () => box.open && list.replaceChildren(...leftLines(rows));
        box.addEventListener('toggle', fill);
        const draw = next => {
            const isSame = next.length === rows.length && next.every((row, i) => row === rows[i]);
            rows = next;
            setText(summary, `${reasonText(kind)}: ${count(rows.length)}`);
            show(box, rows.length > 0);
            if (!isSame) fill();
        };
        return {box, draw};
    }

    function leftLines(rows) {
        const names = [...rows].sort((a, b) => byText(a.name, b.name)).slice(0, MOST_LISTED);
        const more = rows.length - names.length;
        const lines = names.map(row =>
            el('li', {title: messageText(row.message)}, row.name, quiet(` ${size(row.bytes_now)}`)),
        );
        return more > 0 ? [...lines, el('li', null, quiet(t('and {n} more', {n: count(more)})))] : lines;
    }

    /* Preset -> what it promises to keep, from its recipe; null for a recipe without `retain`. */
    function promised(recipe) {
        const found = /(?:^|,)retain=([\d.]+)/.exec(recipe || '');
        return found ? Number(found[1]) : null;
    }

    /* A word about a floor that the preset itself does not reach. */
    function floorText(floor, recipe) {
        if (floor == null) return '';
        const kept = promised(recipe);
        if (kept == null || kept >= floor) return t('The floor is checked for each LoRA before it is replaced.');
        const values = {kept: percent(kept, 0), floor: percent(floor, 0)};
        return t('This preset keeps {kept} or a little more: LoRAs below {floor} are left alone.', values);
    }

    resizeLora.shrinkFields = {exclusion, floorText, leftList, percentField, presetTable, radioRow};
})((window.resizeLora = window.resizeLora || {}));
