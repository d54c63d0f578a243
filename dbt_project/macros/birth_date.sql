{#- A date of birth from m/d/yy, m/d/yyyy or yyyy-mm-dd text; null for anything else. A two-digit year is the
    latest one that is not after `as_of` (a date), since birth dates are not in the future. -#}
{% macro birth_date(text, as_of) -%}
    case
        when {{ text }} like '%/%/%' and length(split_part({{ text }}, '/', 3)) = 2 then
            case
                when {{ iso_date(text, "'20'") }} <= {{ as_of }} then {{ iso_date(text, "'20'") }}
                else {{ iso_date(text, "'19'") }}
            end
        when {{ text }} like '%/%/%' then {{ iso_date(text, "''") }}
        else {{ try_cast(text, 'date') }}
    end
{%- endmacro %}

{#- m/d/y text as a date; `century` (an SQL string) goes before the year. -#}
{% macro iso_date(text, century) -%}
    {{ try_cast(
        century ~ " || split_part(" ~ text ~ ", '/', 3) || '-' || lpad(split_part(" ~ text ~ ", '/', 1), 2, '0')"
        ~ " || '-' || lpad(split_part(" ~ text ~ ", '/', 2), 2, '0')", 'date') }}
{%- endmacro %}
