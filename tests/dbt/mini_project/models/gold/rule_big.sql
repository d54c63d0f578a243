select id from {{ new_rows(ref('features'), consumer='alerts') }} where amount > 100
