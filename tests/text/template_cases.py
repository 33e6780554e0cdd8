"""Chat templates as data: real ones, single expressions, attacks with words of the error, and pieces of any."""

from bitnet_numba.text.sandbox.environment import MAX_SOURCE_BYTES

MESSAGES = [{"role": "system", "content": " Be brief. "}, {"role": "user", "content": "Hi\n"}]

LLAMA31 = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
        {{- message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {{- raise_exception("This model only supports single tool-calls at once!") }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

REAL_TEMPLATES = {
    "bitnet 2B-4T": (
        "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = message['role'] | "
        "capitalize + ': ' + message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = "
        "bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}"
        "{{ 'Assistant: ' }}{% endif %}",
        "<s>System: Be brief.<|eot_id|>User: Hi<|eot_id|>Assistant: ",
    ),
    "llama 3.1": (
        LLAMA31,
        "<s><|start_header_id|>system<|end_header_id|>\n\nToday Date: 07 Mar 2031\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "chatml": (
        "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + "
        "'\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        "<|im_start|>system\n Be brief. <|im_end|>\n<|im_start|>user\nHi\n<|im_end|>\n<|im_start|>assistant\n",
    ),
    "llama 2": (
        "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = "
        "messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif "
        "%}{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate') }}{% endif %}{% if loop.index0 == 0 and "
        "system_message != false %}{% set content = '<<SYS>>\n' + system_message + '\n<</SYS>>\n' + "
        "message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == "
        "'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% endif %}{% endfor %}",
        "<s>[INST] <<SYS>>\n Be brief. \n<</SYS>>\nHi [/INST]",
    ),
}

EXPRESSIONS = {
    "{{ 'a-b-c'.split('-')[-1] }}": "c",
    "{{ 'a-b-c'.rsplit('-', maxsplit=1)[0] }}": "a-b",
    "{{ 'x' ~ 1 ~ none ~ missing }}": "x1None",
    "{{ messages | tojson }}": '[{"role": "system", "content": " Be brief. "}, {"role": "user", "content": "Hi\\n"}]',
    "{{ messages | length }} {{ messages[-1].role }} {{ messages[7] is defined }}": "2 user False",
    "{{ missing | default('d') }} {{ '' | default('e', true) }}": "d e",
    "{% set ns = namespace(n=0) %}{% for m in messages if m.role == 'user' %}{% set ns.n = ns.n + 1 %}{% endfor %}"
    "{{ ns.n }}": "1",
    "{% macro twice(x) %}{{ x }}{{ x }}{% endmacro %}{{ twice('ab') }}": "abab",
    "{% for i in range(9) %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}": "012",
    "{% set block %}x{{ 1 }}{% endset %}{{ block | upper }}": "X1",
    "{{ 'a' in 'cab' }} {{ 3 is odd }} {{ 7 // 2 }} {{ 7 % 4 }} {{ -2 * 3 }}": "True True 3 3 -6",
    "{% for k, v in messages[1].items() %}{{ k }}{% endfor %}": "rolecontent",
    "{{ ['a', 'b'] | join('+') }} {{ ('ab' | list)[0] }} {{ 'ab' | first }}{{ 'ab' | last }}": "a+b a ab",
    "{{ 'aXa'.replace('a', 'bb', 1) }} {{ 'ab' | replace('a', 'c') }} {{ '7' | int + 1 }}": "bbXa cb 8",
    "{{ 'aba'.strip('a') }} {{ 'xay' | trim('xy') }} {{ 'abc'[::-1] }} {{ 'q' | int(5) }}": "b a cba 5",
    "{{ 'x' | replace('x', '" + "y" * 300 + "') | length }}": "300",
    "{{ 'x'.replace('x', '" + "y" * 300 + "') | length }}": "300",
    "{{ (messages[0] | items)[0][0] }} {{ 4 | string }} {{ 'a-b' | replace('-', '') | length }}": "role 4 2",
    "{% generation %}a{% set x = 1 %}{{ x }}{% endgeneration %}{{ x }}": "a1",
    "{% for m in messages %}{% generation %}{{ m.role }}{% endgeneration %};{% endfor %}": "system;user;",
    "{% macro f(x) %}<{{ caller(x) }}>{% endmacro %}{% call(y) f('a') %}{{ y }}b{% endcall %}": "<ab>",
    "{% filter upper %}a{{ messages[1].role }}{% endfilter %}": "AUSER",
    "{% with a = 1, b = 'x' %}{{ a }}{{ b }}{% endwith %}{{ a }}": "1x",
    "{% for i in range(5) %}{{ loop.cycle('a', 'b') }}{% endfor %}": "ababa",
    "{{ dict(a=1, b='x') }} {{ dict({'a': 2}).a }}": "{'a': 1, 'b': 'x'} 2",
    "{{ dict([('k', 3)], z=4).values() | list }}": "[3, 4]",
    "{{ messages[0].keys() | list }} {{ ['a', 1, none, true] }}": "['role', 'content'] ['a', 1, None, True]",
    "{{ 6 is divisibleby 3 }} {{ 7 is divisibleby(3) }}": "True False",
    "{{ messages | map(attribute='role') | join(',') }} {{ ['a'] | map('upper') | list }}": "system,user ['A']",
    "{{ messages | map(attribute='name', default='-') | join }} {{ [[1, 2]] | map(attribute='1') | list }}": "-- [2]",
    "{{ ['axa'] | map('replace', 'a', 'b') | first }}": "bxb",
    "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | first }}": "Hi\n",
    "{{ messages | rejectattr('role', 'equalto', 'user') | list | length }}": "1",
    "{{ messages | selectattr('name') | list | length }}{{ messages | rejectattr('name') | list | length }}": "02",
    "{{ messages | selectattr('role', 'in', ['user', 'tool']) | list | length }}": "1",
    "{{ [1, 2, 3] | select('odd') | list }} {{ [0, 1, ''] | reject | list }}": "[1, 3] [0, '']",
    "{{ 'hello big-world (x' | title }}": "Hello Big-World (X",
    "{{ '%s: %05.1f%%' | format('a', 2.55) }} {{ '%(x)s' | format(x='y') }}": "a: 002.5% y",
    "{{ '%s-%s' % ('a', 1) }} {{ '%d' % 7 }}": "a-1 7",
    "{{ '<a href=\\'x\\'>&' | e }} {{ '<' | safe }} {{ 3 | escape }}": "&lt;a href=&#39;x&#39;&gt;&amp; < 3",
    "{{ 'abc' | reverse }} {{ [1, 2] | reverse | list }}": "cba [2, 1]",
    "{{ strftime_now('%d %b %Y %H:%M') }} {{ strftime_now is defined }}": "07 Mar 2031 09:05 True",
    "{{ 'on' if messages else 'off' }} {{ messages[0].get('name', '-') }}": "on -",
}

GROW = "{% set ns = namespace(x=%s) %}{% for i in range(100) %}{% set ns.x = %s %}{% endfor %}{{ %s }}"


def grow(start: str, step: str, use: str = "1") -> str:
    return GROW.replace("%s", start, 1).replace("%s", step, 1).replace("%s", use, 1)


ATTACKS = {
    "class walk": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "__class__"),
    "class walk by item": ("{{ messages['__class__'] }}", "__class__"),
    "class walk from a method": ("{{ ''.upper.__self__.__class__ }}", "__self__"),
    "class walk from a function": ("{{ raise_exception.__globals__ }}", "__globals__"),
    "class walk from a namespace": ("{{ namespace(a=1).__init__ }}", "__init__"),
    "class walk from the loop": ("{% for i in [1] %}{{ loop.cycle.__class__ }}{% endfor %}", "__class__"),
    "the loop's own function": ("{% for i in [1] %}{{ loop.cycle }}{% endfor %}", "prints a Cycle"),
    "the template itself": ("{{ self.__init__ }}", "__init__"),
    "attr filter": ("{{ '' | attr('__class__') }}", "attr"),
    "map filter": ("{{ messages | map(attribute='__class__') | list }}", "prints a Undefined"),
    "map to a class": ("{{ ['a'] | map(attribute='upper.__self__') | list }}", "__self__"),
    "map with a hidden filter": ("{{ [9] | map('(made)') | list }}", "'(made)' is not for"),
    "map with no filter": ("{{ [9] | map('attr', 'x') | list }}", "'attr' is not for"),
    "select by a hidden test": ("{{ [9] | select('filter') | list }}", "'filter' is not for"),
    "map over and over": ("{% for i in range(9999) %}{% set x = range(999) | map('string') %}{% endfor %}", "steps"),
    "select nested lists": (grow("[1]", "[ns.x, ns.x]", "[ns.x] | select('equalto', [ns.x])"), "steps"),
    "format method": ("{{ '{0.__class__}'.format(1) }}", "format"),
    "format operator": ("{{ '%1000000000d' % 1 }}", "plain conversions"),
    "format filter": ("{{ '%1000000000d' | format(1) }}", "plain conversions"),
    "format with a width of its own": ("{{ '%*d' | format(999999999, 1) }}", "plain conversions"),
    "format a text often": ("{{ '%s%s%s' | format(text, text, text) }}", "characters"),
    "format by name": ("{{ '%(a)s%(a)s' | format(a=text) }}", "characters"),
    "format a container": ("{{ '%s' | format([1]) }}", "prints a list"),
    "divisible text": ("{{ '%999999999d' is divisibleby 5 }}", "whole numbers"),
    "escape much": ("{{ (text | replace('x', '<')) | e }}", "characters"),
    "include": ("{% include '/etc/passwd' %}", "Include"),
    "import": ("{% import 'os' as os %}", "Import"),
    "extends": ("{% extends 'x' %}", "Extends"),
    "lipsum": ("{{ lipsum(9) }}", "lipsum"),
    "cycler": ("{{ cycler.__init__ }}", "cycler"),
    "a wide date": ("{{ strftime_now('%999999999d') }}", "plain directives"),
    "a long date": ("{{ strftime_now(text) }}", "plain directives"),
    "the clock's insides": ("{{ strftime_now.args }}", "args"),
    "change a message": ("{{ messages[0].update({'role': 'user'}) }}", "update"),
    "change the list": ("{{ messages.append(1) }}", "append"),
    "nested loops": ("{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}", "steps"),
    "filtered loop": ("{% for i in range(9999) if range(9999) | list == 0 %}{% endfor %}", "steps"),
    "huge range": ("{% for i in range(10**9) %}{% endfor %}", "**"),
    "big range": ("{% for i in range(1000000000) %}{% endfor %}", "1,000,000,000"),
    "repeat text": ("{{ 'a' * 1000000000 }}", "str * int"),
    "repeat a list": ("{{ [1] * 1000000000 }}", "list * int"),
    "power": ("{{ 9 ** 9 ** 9 }}", "**"),
    "squares": (grow("9", "ns.x * ns.x"), "64 bits"),
    "double text with ~": (grow("'aa'", "ns.x ~ ns.x"), "characters"),
    "double text with +": (grow("'aa'", "ns.x + ns.x"), "characters"),
    "double text with join": (grow("'aa'", "[ns.x, ns.x] | join"), "characters"),
    "blow up with replace": (grow("'a'", "ns.x | replace('a', 'a' ~ ns.x)"), "characters"),
    "blow up with the method": (grow("'a'", "ns.x.replace('a', 'aaaa')"), "characters"),
    "trim for ever": ("{% for i in range(9999) %}{% set x = text | trim('yx') %}{% endfor %}", "characters"),
    "strip many characters": ("{{ text.strip(text) }}", "looks for"),
    "search backwards": ("{{ text.rfind('b' ~ text[1:]) }}", "looks for"),
    "search often": ("{% for i in range(9999) %}{% set x = text.rfind(text[:256]) %}{% endfor %}", "characters"),
    "double a list": (grow("[1]", "ns.x + ns.x"), "steps"),
    "print a nested list": (grow("[1]", "[ns.x, ns.x]", "ns.x"), "steps"),
    "print a function in a list": ("{{ [range] }}", "prints a function"),
    "json of a nested list": (grow("[1]", "[ns.x, ns.x]", "ns.x | tojson"), "steps"),
    "compare nested lists": (grow("[1]", "[ns.x, ns.x]", "ns.x == [ns.x]"), "steps"),
    "test nested lists": (grow("[1]", "[ns.x, ns.x]", "ns.x is equalto [ns.x]"), "steps"),
    "hash a nested tuple": (grow("(1,)", "(ns.x, ns.x)", "{ns.x: 1}"), "keys"),
    "hash a nested tuple in a namespace": (grow("(1,)", "(ns.x, ns.x)", "namespace([(ns.x, 1)])"), "pairs of a text"),
    "hash a nested tuple in a dict": (grow("(1,)", "(ns.x, ns.x)", "dict([(ns.x, 1)])"), "pairs of a text"),
    "find a nested tuple": (grow("(1,)", "(ns.x, ns.x)", "ns.x in messages[0]"), "steps"),
    "look up a nested tuple": (grow("(1,)", "(ns.x, ns.x)", "messages[0][ns.x]"), "dict[tuple]"),
    "recursive macro": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "macros"),
    "branching macro": (
        "{% macro f(n) %}{% if n %}" + "{{ f(n - 1) }}" * 99 + "{% endif %}{% endmacro %}{{ f(9) }}",
        "steps",
    ),
    "recursive loop": ("{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}", "recursive"),
    "recursive call block": (
        "{% macro f() %}{{ caller() }}{% endmacro %}{% macro g() %}{% call f() %}{{ g() }}{% endcall %}{% endmacro %}"
        "{{ g() }}",
        "macros",
    ),
    "branching call block": (
        "{% macro f() %}{% for i in range(9999) %}{{ caller() }}{% endfor %}{% endmacro %}"
        "{% call f() %}{% for i in range(9999) %}{% endfor %}{% endcall %}",
        "steps",
    ),
    "a call of a method in a block": ("{% call messages[0].get() %}x{% endcall %}", "get"),
    "block": ("{% block a %}{{ self.a() }}{% endblock %}", "Block"),
    "much output": ("{% for i in range(9999) %}" + "x" * 1000 + "{% endfor %}", "output"),
    "much hidden text": ("{% set x %}{% for i in range(9999) %}" + "x" * 60_000 + "{% endfor %}{% endset %}", "steps"),
    "star arguments": ("{{ range(*[1, 2]) }}", "* or **"),
    "meter by name": ("{{ -9999 | spend }}", "spend"),
    "deep brackets": ("{{ " + "(" * 20_000 + "1" + ")" * 20_000 + " }}", "recursion"),
    "deep sum": ("{{ 1" + "+1" * 4000 + " }}", "nested"),
    "deep attributes": ("{{ a" + ".b" * 4000 + " }}", "nested"),
    "deep blocks": ("{% if 1 %}" * 3000, "recursion"),
    "much to compile": (
        "{% for x in [] %}" * 15 + "".join(f"{{% set a{i} = 1 %}}" for i in range(2800)) + "{% endfor %}" * 15,
        "too long to compile",
    ),
    "many loops": ("{% for i in [1] %}" * 30 + "{% endfor %}" * 30, "nested"),
    "long number": ("{{ " + "9" * 10_000 + " }}", "4300"),
    "source too long": ("x" * (MAX_SOURCE_BYTES + 1), "65,536"),
    "not a template": ("{% for %}", "line 1"),
    "unclosed": ("{{ 'a", "line 1"),
    "too many arguments": ("{{ 'a'.strip(1, 2, 3) }}", "argument"),
    "a list as argument": ("{{ 'a'.startswith(['a']) }}", "plain text"),
    "a list to trim": ("{{ [1] | trim }}", "works on text"),
    "a number to trim": ("{{ 'a' | trim(1) }}", "must be None or str"),
    "the length of a number": ("{{ 1 | length }}", "works on text and lists"),
    "the items of a text": ("{{ 'a' | items }}", "works on a mapping"),
    "a replacement of numbers": ("{{ 'a' | replace(1, 2) }}", "two texts"),
    "wide json": ("{{ messages | tojson(indent=99) }}", "indent"),
    "a call of a number": ("{{ messages[0].role() }}", "cannot be called"),
    "a sign before text": ("{{ -'a' }}", "- str"),
    "an item of a number": ("{{ 1[2] }}", "int[int]"),
    "control characters raised": ("{{ raise_exception('\x1b[31m\x00red') }}", "chat template, line 1: [31m red"),
    "raised at length": ("{{ raise_exception(text) }}", "line 1: xxx"),
    "raised by the template": ("{{ raise_exception('roles must\nalternate') }}", "roles must alternate"),
}

PIECES = [
    *("{{", "}}", "{%", "%}", "{#", "#}", "(", ")", "[0]", "+", "~", "*", "**", "%", "|trim", ".role", "'a'", "\n"),
    *(" for i in ", " range(9) ", " endfor ", " if ", " endif ", " set x = ", " macro f() ", "messages", "loop", "x"),
]
