-- One row per day and service: gained, lost, and how many there are at its end.
with days as (
    select
        day,
        account,
        chat_service_sid,
        sum(inserted) + sum(restored) as gained,
        sum(deleted) as lost,
        sum(first_loaded) + sum(inserted) + sum(restored) - sum(deleted) as net
    from {{ source('push_bindings', 'daily_changes') }}
    group by day, account, chat_service_sid
)

select
    day,
    account,
    chat_service_sid,
    gained,
    lost,
    sum(net) over (partition by account, chat_service_sid order by day) as active
from days
